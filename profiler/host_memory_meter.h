// How fast this machine reads its memory: what copies over the link and attention on the host share.
#ifndef SPILLWAY_PROFILER_HOST_MEMORY_METER_H_
#define SPILLWAY_PROFILER_HOST_MEMORY_METER_H_

#include <cstdint>

#include "absl/status/statusor.h"

namespace spillway::profiler {

// Cores that this process may use, at most 64.
int HostThreads();

// A buffer of which a last-level cache of `cache_bytes` (0: unknown) holds at most a quarter, within 128 MiB
// and 2 GiB; no more than an eighth of `available_bytes` (but 8 MiB at least).
int64_t HostMeterBytes(int64_t cache_bytes, int64_t available_bytes);
// The same for this machine.
int64_t HostMeterBytes();

// Bytes per second that `threads` threads read together: the median of a few passes over `size_bytes`, mapped
// for it and unmapped again. They are started before the first pass. Takes about 8 passes, or from the third
// one on no more than half a second. ResourceExhausted where there is no such memory.
absl::StatusOr<double> MeasureHostMemory(int64_t size_bytes, int threads);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_HOST_MEMORY_METER_H_
