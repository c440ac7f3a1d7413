// How fast this machine reads its memory: what copies over the link and attention on the host share.
#ifndef SPILLWAY_PROFILER_HOST_MEMORY_METER_H_
#define SPILLWAY_PROFILER_HOST_MEMORY_METER_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace spillway::profiler {

constexpr int64_t kHostMeterBytes = int64_t{128} << 20;  // beyond the caches of most processors

// Cores that this process may use, at most 64.
int HostThreads();

// Bytes per second that `threads` threads read together: the median of a few passes over `size_bytes`, mapped
// for it and unmapped again. Takes about 8 passes. ResourceExhausted where there is no such memory.
absl::StatusOr<double> MeasureHostMemory(int64_t size_bytes, int threads);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_HOST_MEMORY_METER_H_
