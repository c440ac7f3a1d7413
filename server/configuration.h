// Where settings come from: flags, then SPILLWAY_* environment variables, then the JSON file of --config,
// then defaults. Free functions over values; no global state.
#ifndef SPILLWAY_SERVER_CONFIGURATION_H_
#define SPILLWAY_SERVER_CONFIGURATION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/settings.h"

namespace spillway::server {

enum class Action : uint8_t { kServe, kHelp, kVersion, kPrintConfig, kHealthcheck };

struct Configuration {
  // One flag's value and its origin: "--threads", "SPILLWAY_THREADS", the file's path, "default".
  struct Value {
    const Flag* flag = nullptr;
    std::string text;
    std::string origin;
  };

  Action action = Action::kServe;
  Settings settings;
  std::vector<Value> values;  // in the order of Flags()
};

// `arguments` without the program's name; `environment` in the form "NAME=value". InvalidArgument, in one
// line that names the flag, variable or file, for unknown names (with the nearest known one), values out of
// range, and a missing --model (unless something else than serving is asked for).
absl::StatusOr<Configuration> ReadConfiguration(absl::Span<const std::string> arguments,
                                                absl::Span<const std::string> environment);

// What --print_config prints: a line for every flag, ready to be pasted.
std::string PrintedConfiguration(const Configuration& configuration);

// The known name that `name` was most likely meant to be; empty when none is near.
absl::string_view NearestName(absl::string_view name, absl::Span<const absl::string_view> known);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_CONFIGURATION_H_
