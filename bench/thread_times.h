// CPU time of another process's threads, by their names, from /proc.
#ifndef SPILLWAY_BENCH_THREAD_TIMES_H_
#define SPILLWAY_BENCH_THREAD_TIMES_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace spillway::bench {

// Seconds of user and system time by thread name; threads of one name are added up. Threads that have ended
// are not in it. `proc_root` is "/proc" but in tests. NotFound where there is no such process.
absl::StatusOr<std::map<std::string, double>> ReadThreadTimes(const std::string& proc_root, int64_t pid);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_THREAD_TIMES_H_
