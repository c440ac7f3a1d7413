#include "server/configuration.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/bytes.h"
#include "base/json_watch.h"
#include "base/small_file.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace spillway::server {
namespace {

constexpr absl::string_view kPrefix = "SPILLWAY_";
constexpr int kSchemaVersion = 1;

struct Given {
  std::string text;
  std::string origin;
};
using GivenValues = std::map<std::string, Given, std::less<>>;  // by flag name

const Flag* FindFlag(absl::string_view name) {
  for (const Flag& flag : Flags()) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

absl::Status UnknownName(absl::string_view what, absl::string_view name,
                         absl::Span<const absl::string_view> known, absl::string_view decoration) {
  const absl::string_view nearest = NearestName(name, known);
  return absl::InvalidArgumentError(absl::StrCat(
      what, nearest.empty() ? "; see --help" : absl::StrCat("; did you mean ", decoration, nearest, "?")));
}

std::vector<absl::string_view> FlagNames() {
  std::vector<absl::string_view> names = {"config", "print_config", "healthcheck", "version", "help"};
  for (const Flag& flag : Flags()) names.push_back(flag.name);
  return names;
}

// --- Sources.

struct Arguments {
  Action action = Action::kServe;
  std::optional<std::string> config_path;
  GivenValues values;
};

absl::StatusOr<Arguments> ReadArguments(absl::Span<const std::string> arguments) {
  Arguments out;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i] == "-h" ? "--help" : absl::string_view(arguments[i]);
    if (!absl::ConsumePrefix(&argument, "--") || argument.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", arguments[i],
                                                     "'; flags are written --name=value, see --help"));
    }
    const size_t equals = argument.find('=');
    const std::string name(argument.substr(0, equals));
    const std::string dashed = absl::StrCat("--", name);
    if (name == "help" || name == "version" || name == "print_config" || name == "healthcheck") {
      if (equals != absl::string_view::npos) {
        return absl::InvalidArgumentError(absl::StrCat(dashed, " takes no value"));
      }
      // The first to ask wins, so that `--help --version` prints one thing.
      if (out.action == Action::kServe) {
        out.action = name == "help"           ? Action::kHelp
                     : name == "version"      ? Action::kVersion
                     : name == "print_config" ? Action::kPrintConfig
                                              : Action::kHealthcheck;
      }
      continue;
    }
    if (name != "config" && FindFlag(name) == nullptr) {
      return UnknownName(absl::StrCat("unknown flag ", dashed), name, FlagNames(), "--");
    }
    std::string value;
    if (equals != absl::string_view::npos) {
      value = std::string(argument.substr(equals + 1));
    } else if (const Flag* flag = FindFlag(name); flag != nullptr && flag->type == FlagType::kSwitch) {
      value = "true";
    } else if (i + 1 < arguments.size() && !absl::StartsWith(arguments[i + 1], "--")) {
      value = arguments[++i];
    } else {
      return absl::InvalidArgumentError(absl::StrCat(dashed, " needs a value: ", dashed, "=..."));
    }
    if (name == "config") {
      out.config_path = value;
    } else {
      out.values[name] = {value, dashed};
    }
  }
  return out;
}

// What Kubernetes sets for every service of the namespace ("SPILLWAY_SERVICE_HOST", "SPILLWAY_PORT_8090_TCP",
// "SPILLWAY_METRICS_SERVICE_PORT_HTTP"), and what belongs to other programs of the project.
bool IsForeignVariable(absl::string_view name) {
  for (const absl::string_view other :
       {"SPILLWAY_SERVER", "SPILLWAY_TLS", "SPILLWAY_TLS_CA", "SPILLWAY_TLS_CLIENT_CERTIFICATE",
        "SPILLWAY_TLS_CLIENT_KEY", "SPILLWAY_TLS_SERVER_NAME", "SPILLWAY_TOKEN", "SPILLWAY_TOKEN_FILE",
        "SPILLWAY_CACHE", "SPILLWAY_DEMO_MODEL", "SPILLWAY_JOBS"}) {
    if (name == other) return true;
  }
  if (absl::StrContains(name, "_SERVICE_HOST") || absl::StrContains(name, "_SERVICE_PORT")) return true;
  if (absl::EndsWith(name, "_PORT")) return true;
  const size_t port = name.find("_PORT_");
  return port != absl::string_view::npos && port + 6 < name.size() && absl::ascii_isdigit(name[port + 6]);
}

absl::Status ReadEnvironment(absl::Span<const std::string> environment, GivenValues* values,
                             std::optional<std::string>* config_path) {
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (!absl::StartsWith(entry, kPrefix) || equals == std::string::npos) continue;
    const std::string variable = entry.substr(0, equals);
    const std::string value = entry.substr(equals + 1);
    const std::string name = absl::AsciiStrToLower(variable.substr(kPrefix.size()));
    if (variable == "SPILLWAY_CONFIG") {
      *config_path = value;
    } else if (FindFlag(name) != nullptr && absl::AsciiStrToUpper(name) == variable.substr(kPrefix.size())) {
      (*values)[name] = {value, variable};
    } else if (!IsForeignVariable(variable)) {
      std::vector<std::string> variables;
      for (const Flag& flag : Flags()) variables.push_back(EnvironmentName(flag));
      const std::vector<absl::string_view> known(variables.begin(), variables.end());
      return UnknownName(absl::StrCat("unknown environment variable ", variable), variable, known, "");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GivenValues> ReadFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--config=", path, ": ", text.status().message(), "; give a readable JSON file"));
  }
  nlohmann::json json;
  JsonWatch watch;
  try {
    json = nlohmann::json::parse(*text, std::ref(watch));
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not JSON at byte ", error.byte, "; correct it there"));
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", error.what(), "; correct it"));
  }
  if (const std::string problem = watch.problem(); !problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", problem));
  }
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": must be one JSON object"));
  GivenValues values;
  for (const auto& [name, value] : json.items()) {
    if (name == "schema_version") {
      if (value != kSchemaVersion) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": schema_version must be ", kSchemaVersion, ", it is ",
                         value.is_number() ? value.dump() : absl::StrCat("of type ", value.type_name())));
      }
      continue;
    }
    if (FindFlag(name) == nullptr) {
      return UnknownName(absl::StrCat(path, ": unknown name \"", name, "\""), name, FlagNames(), "");
    }
    if (value.is_string()) {
      values[name] = {value.get<std::string>(), path};
    } else if (value.is_boolean() && FindFlag(name)->type == FlagType::kSwitch) {
      values[name] = {value.get<bool>() ? "true" : "false", path};
    } else if (value.is_number()) {
      values[name] = {value.dump(), path};
    } else {
      return absl::InvalidArgumentError(absl::StrCat(path, ": \"", name, "\" must be a text or a number",
                                                     value.is_boolean() ? " (\"on\" or \"off\")" : ""));
    }
  }
  return values;
}

// --- Values.

absl::Status CheckAddress(absl::string_view text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  const bool good = colon != absl::string_view::npos && colon > 0 &&
                    absl::SimpleAtoi(text.substr(colon + 1), &port) && port >= 0 && port <= 65535 &&
                    // An IPv6 address needs brackets, else its last group would pass for the port.
                    (text.substr(0, colon).find(':') == absl::string_view::npos ||
                     (text.front() == '[' && text[colon - 1] == ']'));
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError("expected HOST:PORT, e.g. 127.0.0.1:8090 or [::1]:0");
}

absl::Status CheckRange(const Flag& flag, int64_t value) {
  if (value >= flag.min && value <= flag.max) return absl::OkStatus();
  // The default is always good, where it stands for what is found out later too.
  const bool zero_too = flag.fallback == "0" && flag.min > 0;
  if (zero_too && value == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("must be ", zero_too ? "0 or " : "", flag.min, "..", flag.max));
}

absl::Status Assign(const Flag& flag, const std::string& text, Settings& settings) {
  if (const auto* target = std::get_if<int64_t Settings::*>(&flag.target)) {
    int64_t value = 0;
    if (flag.type == FlagType::kSize) {
      SPILLWAY_ASSIGN_OR_RETURN(value, ParseBytes(text));
    } else if (!absl::SimpleAtoi(text, &value)) {
      return absl::InvalidArgumentError("expected a whole number");
    }
    SPILLWAY_RETURN_IF_ERROR(CheckRange(flag, value));
    settings.*(*target) = value;
    return absl::OkStatus();
  }
  if (const auto* target = std::get_if<bool Settings::*>(&flag.target)) {
    if (text != "true" && text != "false") return absl::InvalidArgumentError("must be true or false");
    settings.*(*target) = text == "true";
    return absl::OkStatus();
  }
  if (flag.type == FlagType::kAddress && !(text.empty() && flag.fallback.empty())) {
    SPILLWAY_RETURN_IF_ERROR(CheckAddress(text));
  }
  if (flag.type == FlagType::kChoice &&
      std::find(flag.choices.begin(), flag.choices.end(), text) == flag.choices.end()) {
    return absl::InvalidArgumentError(absl::StrCat("must be one of ", absl::StrJoin(flag.choices, ", ")));
  }
  settings.*std::get<std::string Settings::*>(flag.target) = text;
  return absl::OkStatus();
}

// What no flag can say alone.
absl::Status CheckTogether(const Settings& settings) {
  if (!settings.model.empty() && !settings.random_weights.empty()) {
    return absl::InvalidArgumentError("--model and --random_weights are both set; leave one of them empty");
  }
  if (settings.tls_certificate.empty() != settings.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "--tls_certificate and --tls_key belong together; give both, or neither");
  }
  if (!settings.tls_client_ca.empty() && settings.tls_certificate.empty()) {
    return absl::InvalidArgumentError("--tls_client_ca needs --tls_certificate and --tls_key");
  }
  return absl::OkStatus();
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

absl::string_view NearestName(absl::string_view name, absl::Span<const absl::string_view> known) {
  absl::string_view nearest;
  // Two letters or a third of them may be wrong (exchanging two is two); beyond that a guess misleads.
  size_t best = std::max<size_t>(2, name.size() / 3) + 1;
  for (absl::string_view candidate : known) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

absl::StatusOr<Configuration> ReadConfiguration(absl::Span<const std::string> arguments,
                                                absl::Span<const std::string> environment) {
  SPILLWAY_ASSIGN_OR_RETURN(Arguments from_flags, ReadArguments(arguments));
  Configuration out;
  out.action = from_flags.action;
  if (out.action == Action::kHelp || out.action == Action::kVersion) return out;

  GivenValues from_environment;
  std::optional<std::string> config_path;
  SPILLWAY_RETURN_IF_ERROR(ReadEnvironment(environment, &from_environment, &config_path));
  if (from_flags.config_path.has_value()) config_path = from_flags.config_path;
  GivenValues from_file;
  if (config_path.has_value()) {
    SPILLWAY_ASSIGN_OR_RETURN(from_file, ReadFile(*config_path));
  }

  for (const Flag& flag : Flags()) {
    Configuration::Value value{&flag, std::string(flag.fallback), "default"};
    for (const GivenValues* source : {&from_flags.values, &from_environment, &from_file}) {
      const auto found = source->find(flag.name);
      if (found == source->end()) continue;
      value.text = found->second.text;
      value.origin = found->second.origin;
      break;
    }
    if (absl::Status status = Assign(flag, value.text, out.settings); !status.ok()) {
      const std::string where = value.origin == absl::StrCat("--", flag.name)
                                    ? absl::StrCat("--", flag.name, "=", value.text)
                                    : absl::StrCat(value.origin, ": ", flag.name, "=", value.text);
      return absl::InvalidArgumentError(absl::StrCat(where, ": ", status.message()));
    }
    out.values.push_back(std::move(value));
  }
  if (out.action == Action::kServe && out.settings.model_path().empty()) {
    return absl::InvalidArgumentError("--model is required: --model=FILE.gguf");
  }
  if (out.action == Action::kServe) SPILLWAY_RETURN_IF_ERROR(CheckTogether(out.settings));
  return out;
}

std::string PrintedConfiguration(const Configuration& configuration) {
  size_t width = 0;
  for (const auto& value : configuration.values) {
    width = std::max(width, value.flag->name.size() + value.text.size() + 3);
  }
  std::string out;
  for (const auto& value : configuration.values) {
    std::string line = absl::StrCat("--", value.flag->name, "=", value.text);
    line.resize(std::max(width, line.size()), ' ');
    absl::StrAppend(&out, line, "  # ", value.origin, "\n");
  }
  return out;
}

}  // namespace spillway::server
