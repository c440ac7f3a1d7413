// Measures a device for a model: the profile that plans are made from.
//
// What is measured is what executors do, through the same Transformer and the same copies, at their sizes, by
// the device's events on its own streams. In this order: copies in, out and both ways; the linear part of a
// layer, K and V from X, attention of decoding and of prefill, the head; host memory.
//
// **Compute is measured with the link in busy** where there is a link, because that is how it is used:
// executors overlap the two, and the link takes host memory bandwidth, device memory bandwidth and, where it
// is emulated, processor time from compute (a copy paced at 0.25 GB/s cost a concurrent product 10 % of its
// rate on two cores). A curve of an idle link would promise steps that never come. How much of it is the
// link's doing is kept in compute_slowdown_by_link.
//
// Every phase has its share of `budget_s`; on a slow link or a slow device large sizes are left out and small
// ones repeated less, never below two sizes. So it takes longer only where other work takes the processors or
// the device. A wait that lasts `stall_s` is given up.
//
// Memory while it lasts: on the device 16 MiB for copies and up to 256 MiB of K and V (an eighth and a
// quarter of what is free where that is less), and a transformer's scratch for visit_rows; on the host 16 MiB
// registered and, at the end, HostMeterBytes(). All is freed before it returns (kept, where the device
// stalled: it may still use it). Three streams and seven events stay with the device: streams live as long
// as it does.
#ifndef SPILLWAY_PROFILER_MEASURE_H_
#define SPILLWAY_PROFILER_MEASURE_H_

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "engine/device/device.h"
#include "engine/kv/geometry.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "profiler/host_memory_meter.h"
#include "profiler/machine_profile.h"

namespace spillway::profiler {

struct MeasureOptions {
  int32_t visit_rows = 256;    // rows of a visit at most
  int32_t chunk_tokens = 512;  // tokens that are rebuilt at once at most; in whole blocks, two at least
  // Tokens whose K and V arrive together, and are attended to when they do. 0: all keys lie on the device.
  int32_t kv_chunk_tokens = 0;
  int32_t head_rows = 32;
  int32_t numa_node = -1;  // that the link's copies are measured with; -1: any
  double budget_s = 8;
  double stall_s = 20;
  int64_t host_buffer_bytes = 0;  // to measure host memory with; 0: HostMeterBytes()
  // Told the phase that begins, how many are done and how many there are.
  std::function<void(absl::string_view phase, int done, int total)> progress = {};
  // For the budget; the device's events measure. Must outlive the call.
  const Clock* clock = &Clock::Real();
  std::function<void()> pause = {};  // between looks at an event; empty: a sleep of 100 us
};

// DeadlineExceeded when the device stalls, ResourceExhausted where there is no memory to measure in,
// InvalidArgument when the result is against physics (ValidateProfile), else the device's error. The identity
// is left empty: IdentityOf says it. Nothing else may use the device meanwhile.
absl::StatusOr<MachineProfile> MeasureProfile(device::Device& device, const model::ModelConfig& config,
                                              const model::ModelWeights& weights,
                                              const kv::Geometry& geometry, const MeasureOptions& options);

// Measures the link anew, with host memory that is not page-locked, and puts that in the place of what
// `profile` says of it, which was measured with memory that is: for a machine that does not page-lock as much
// as is carried. Takes the link's share of the budget. What compute takes beside the link stays as it was
// measured. Errors are MeasureProfile's, and leave `profile` as it is.
absl::Status MeasurePageableLink(device::Device& device, const kv::Geometry& geometry,
                                 const MeasureOptions& options, MachineProfile& profile);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_MEASURE_H_
