// A profile as a person reads it.
#ifndef SPILLWAY_PROFILER_PROFILE_TEXT_H_
#define SPILLWAY_PROFILER_PROFILE_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "profiler/machine_profile.h"

namespace spillway::profiler {

// Where the numbers come from, the machine and the model; rates with their sizes, and how well the curves
// fit. Several lines. REQUIRES: ValidateProfile passed.
std::string FormatProfile(const MachineProfile& profile);

// "measured", "measured, emulated link", "public figures": as the JSON says it.
absl::string_view NameOf(ProfileSource source);

// The largest median fit error of the curves that plans read.
double WorstFitError(const MachineProfile& profile);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_PROFILE_TEXT_H_
