// The step of starting up that finds the machine's profile: a saved one that fits, else a measurement that is
// saved. Says in the log what it does and how long it takes.
#ifndef SPILLWAY_SERVER_PROFILE_STEP_H_
#define SPILLWAY_SERVER_PROFILE_STEP_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/kv/geometry.h"
#include "engine/model/model.h"
#include "profiler/machine_profile.h"
#include "server/settings.h"

namespace spillway::server {

struct ObtainedProfile {
  std::optional<profiler::MachineProfile> profile;
  bool is_unsaved = false;  // measured, and not written: the next start measures again
};

// Where the profile is read and saved: --profile, else a file of this machine and model in --cache_dir; empty
// where there is no folder for it.
std::string ProfilePath(const Settings& settings, const profiler::ProfileIdentity& identity);

// Refuses, as ObtainProfile does, a --profile that cannot be read or is another machine's or model's, by all
// that is known before the weights are loaded: everything but the encodings that they will be held in.
absl::Status CheckProfileFlag(const Settings& settings, const model::ModelConfig& config,
                              const device::DeviceInfo& info);

// Empty where the device has no link and no flag asks for a profile, and where there is no memory to measure
// in or the numbers make no sense (the log warns; what is served does not depend on it). FailedPrecondition
// for a --profile of another machine or model, InvalidArgument for one that is no profile; a bad file in the
// cache is measured again. A file that cannot be written is a warning. The device's own errors, and a stall,
// are errors.
absl::StatusOr<ObtainedProfile> ObtainProfile(const Settings& settings, device::Device& device,
                                              const model::Model& model);

// For host memory that the device did not page-lock: puts the link as it is then in the place of what
// `profile` says of it. The file stays as it is: it is the machine's, whatever a limit keeps this process
// from. Where the link cannot be measured, the log warns. Errors are the device's, and a stall.
absl::Status MeasureLinkAgain(const Settings& settings, device::Device& device, const kv::Geometry& geometry,
                              profiler::MachineProfile& profile);

// --profile_only: loads the model, obtains the profile and prints it to stdout.
absl::Status ProfileOnly(const Settings& settings, device::Device& device);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_PROFILE_STEP_H_
