// What makes a machine and a model the same as those that a profile was measured with. Free functions.
#ifndef SPILLWAY_PROFILER_PROFILE_IDENTITY_H_
#define SPILLWAY_PROFILER_PROFILE_IDENTITY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/device/device.h"
#include "engine/kv/geometry.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "profiler/machine_profile.h"

namespace spillway::profiler {

// The processor's name and the machine's memory, as <root>/proc and the control groups say.
struct HostIdentity {
  std::string processor;
  int64_t memory_bytes = 0;
};
HostIdentity ReadHostIdentity(absl::string_view root);

constexpr int32_t kUsualVisitRows = 256;

// Machine: processor, memory (to the GiB), and the device's name, threads, driver and link. Model: family,
// shape, compute dtype, the encodings that its matrices are held in, the block, and `ring_chunk`: what a
// chunk of the staging ring holds, where a small device makes it less than usual (empty elsewhere), for
// attention and rebuilding are measured chunk by chunk; `visit_rows` (MeasureOptions), where they are more
// than kUsualVisitRows: what costs of 256 rows say of 1,024 is a guess. Weights' values are not part of it:
// they cost the same whatever they are; nor is the device's memory budget beside that.
//
// Null `weights`: as far as a model's header knows, before any are loaded. Encodings are not said then, and
// the model has no digest.
ProfileIdentity IdentityOf(const HostIdentity& host, const device::DeviceInfo& info,
                           const model::ModelConfig& config, const model::ModelWeights* weights,
                           const kv::Geometry& geometry, absl::string_view ring_chunk, int32_t visit_rows);

// FailedPrecondition, naming the number, where a profile that is this model's by its identity was edited to
// describe another: steps are planned with its numbers.
absl::Status CheckProfiledModel(const ProfiledModel& profiled, const model::ModelConfig& config,
                                const kv::Geometry& geometry);

// Both digests' beginnings, for file names: "profile-1f2e3d4c5b6a-0a1b2c3d4e5f.json".
std::string ProfileFileName(const ProfileIdentity& identity);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_PROFILE_IDENTITY_H_
