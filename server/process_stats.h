// What the kernel says of this process. Free functions over /proc; thread-safe.
#ifndef SPILLWAY_SERVER_PROCESS_STATS_H_
#define SPILLWAY_SERVER_PROCESS_STATS_H_

#include <cstdint>

namespace spillway::server {

// -1 where the kernel does not say.
struct ProcessStats {
  double cpu_seconds = -1;
  int64_t resident_bytes = -1;
  int64_t virtual_bytes = -1;
  int64_t open_fds = -1;
  int64_t max_fds = -1;
  double start_unix_seconds = -1;
};

ProcessStats ReadProcessStats();

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_PROCESS_STATS_H_
