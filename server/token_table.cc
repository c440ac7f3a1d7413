#include "server/token_table.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/json_watch.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace spillway::server {
namespace {

using Json = nlohmann::json;

constexpr size_t kTenantNameBytes = 64;
constexpr int kSchemaVersion = 1;

absl::Status Bad(const std::string& where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status CheckNames(const Json& object, const std::string& where, const std::set<std::string>& known) {
  for (const auto& [name, value] : object.items()) {
    if (known.count(name) == 0) return Bad(where, absl::StrCat("unknown name \"", name, "\""));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ReadLimit(const Json& object, const char* name, const std::string& where) {
  if (!object.contains(name)) return 0;
  const Json& value = object[name];
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 50) {
    return Bad(where, absl::StrCat(name, " must be a whole number from 0 (no limit) to 2^50"));
  }
  return value.get<int64_t>();
}

absl::StatusOr<TenantLimits> ReadLimits(const Json& object, const std::string& where) {
  if (!object.is_object()) return Bad(where, "must be an object");
  SPILLWAY_RETURN_IF_ERROR(CheckNames(object, where, {"max_concurrent_requests", "tokens_per_minute"}));
  TenantLimits limits;
  SPILLWAY_ASSIGN_OR_RETURN(limits.max_concurrent_requests,
                            ReadLimit(object, "max_concurrent_requests", where));
  SPILLWAY_ASSIGN_OR_RETURN(limits.tokens_per_minute, ReadLimit(object, "tokens_per_minute", where));
  return limits;
}

// A text, empty where it is not there.
absl::StatusOr<std::string> ReadText(const Json& object, const char* name, const std::string& where) {
  if (!object.contains(name)) return std::string();
  if (!object[name].is_string()) return Bad(where, absl::StrCat(name, " must be a text"));
  return object[name].get<std::string>();
}

absl::StatusOr<TokenEntry> ReadToken(const Json& object, const std::string& where) {
  if (!object.is_object()) return Bad(where, "must be an object");
  SPILLWAY_RETURN_IF_ERROR(CheckNames(object, where, {"sha256", "tenant", "role"}));
  TokenEntry entry;
  SPILLWAY_ASSIGN_OR_RETURN(const std::string hex, ReadText(object, "sha256", where));
  const bool digits = std::all_of(hex.begin(), hex.end(), [](char c) { return absl::ascii_isxdigit(c); });
  if (hex.size() != 2 * entry.digest.size() || !digits) {
    return Bad(where, "sha256 must be 64 hexadecimal digits, as `spillway token` prints them");
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::copy(bytes.begin(), bytes.end(), entry.digest.begin());
  SPILLWAY_ASSIGN_OR_RETURN(entry.tenant, ReadText(object, "tenant", where));
  if (!IsTenantName(entry.tenant)) {
    return Bad(where, "tenant must be 1 to 64 letters, digits, dots, dashes and underscores");
  }
  SPILLWAY_ASSIGN_OR_RETURN(const std::string role, ReadText(object, "role", where));
  if (!role.empty() && role != "user" && role != "admin") return Bad(where, "role must be user or admin");
  entry.admin = role == "admin";
  return entry;
}

absl::StatusOr<Json> ParseObject(absl::string_view text) {
  Json json;
  JsonWatch watch;
  try {
    json = Json::parse(text.begin(), text.end(), std::ref(watch));
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON at byte ", error.byte, "; correct it there"));
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
  if (std::string problem = watch.problem(); !problem.empty()) return absl::InvalidArgumentError(problem);
  if (!json.is_object()) return absl::InvalidArgumentError("must be one JSON object");
  return json;
}

}  // namespace

bool IsTenantName(absl::string_view name) {
  const auto fit = [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_'; };
  return !name.empty() && name.size() <= kTenantNameBytes && std::all_of(name.begin(), name.end(), fit);
}

absl::StatusOr<TokenTable> ParseTokenTable(absl::string_view text) {
  SPILLWAY_ASSIGN_OR_RETURN(const Json json, ParseObject(text));
  SPILLWAY_RETURN_IF_ERROR(CheckNames(json, "the file", {"schema_version", "tenants", "tokens"}));
  if (json.value("schema_version", Json()) != kSchemaVersion) {
    return Bad("schema_version", absl::StrCat("must be ", kSchemaVersion));
  }
  TokenTable table;
  const Json tenants = json.value("tenants", Json::object());
  if (!tenants.is_object()) return Bad("tenants", "must be an object of tenants by name");
  for (const auto& [name, limits] : tenants.items()) {
    const std::string where = absl::StrCat("tenants.", name);
    if (!IsTenantName(name)) {
      return Bad(where, "a name must be 1 to 64 letters, digits, dots, dashes and underscores");
    }
    SPILLWAY_ASSIGN_OR_RETURN(table.tenants[name], ReadLimits(limits, where));
  }
  const Json tokens = json.value("tokens", Json::array());
  if (!tokens.is_array()) return Bad("tokens", "must be a list");
  if (tokens.size() > kMaxTokens) {
    return Bad("tokens", absl::StrCat(tokens.size(), " tokens, at most ", kMaxTokens));
  }
  std::set<Sha256Digest> known;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string where = absl::StrCat("tokens[", i, "]");
    SPILLWAY_ASSIGN_OR_RETURN(TokenEntry entry, ReadToken(tokens[i], where));
    if (!known.insert(entry.digest).second) return Bad(where, "the same sha256 is there twice");
    table.tenants.try_emplace(entry.tenant);
    table.tokens.push_back(std::move(entry));
  }
  if (table.tenants.size() > kMaxTenants) {
    return Bad("tenants", absl::StrCat(table.tenants.size(), " tenants, at most ", kMaxTenants));
  }
  return table;
}

}  // namespace spillway::server
