// MachineProfile as JSON.

// Errors name the path of the value that is wrong.
#define JSON_DIAGNOSTICS 1

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "profiler/machine_profile.h"

namespace spillway::profiler {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CostSample, units, seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CostPiece, fixed_s, per_unit_s)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CostCurve, samples, pieces, fit_error_max, fit_error_median)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProfileIdentity, machine, machine_parts, model, model_parts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProfiledModel, name, n_layers, d_model, n_heads, n_kv_heads, d_head,
                                   vocab_size, element_bytes, block_tokens, chunk_tokens, layer_weight_bytes,
                                   weight_bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CopyRates, bytes_per_s, overhead_s, single, merged, batched)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MachineProfile, source, description, identity, model, copy_in, copy_out,
                                   copy_both_bytes_per_s, rebuild, linear, head, attention, prefill_attention,
                                   compute_slowdown_by_link, host_memory_bytes_per_s,
                                   host_attention_bytes_per_s, host_attention_fixed_s, device_memory_bytes,
                                   host_memory_bytes, measuring_s)
NLOHMANN_JSON_SERIALIZE_ENUM(ProfileSource,
                             {{ProfileSource::kMeasured, "measured"},
                              {ProfileSource::kMeasuredEmulatedLink, "measured, emulated link"},
                              {ProfileSource::kPublicFigures, "public figures"}})

namespace {

// Without the library's own name of the error: "(/copy_in/bytes_per_s) type must be number, but is string".
std::string MessageOf(const nlohmann::json::exception& error) {
  const std::string text = error.what();
  const size_t end = text.front() == '[' ? text.find("] ") : std::string::npos;
  return end == std::string::npos ? text : text.substr(end + 2);
}

constexpr size_t kFileBytesMax = 16 << 20;

absl::Status Errno(absl::string_view what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat(what, " ", path, ": ", std::strerror(errno)));
}

}  // namespace

std::string ProfileToJson(const MachineProfile& profile) {
  nlohmann::json json = profile;
  json["schema_version"] = kProfileSchemaVersion;
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::StatusOr<MachineProfile> ProfileFromJson(absl::string_view text) {
  MachineProfile profile;
  // The library throws; nothing leaves this function.
  try {
    const auto json = nlohmann::json::parse(text.begin(), text.end());
    if (!json.is_object()) return absl::InvalidArgumentError("profile: the file is no JSON object");
    const int version = json.at("schema_version").get<int>();
    if (version != kProfileSchemaVersion) {
      return absl::InvalidArgumentError(absl::StrCat("profile: schema_version is ", version,
                                                     ", this build reads ", kProfileSchemaVersion,
                                                     "; measure again with --reprofile"));
    }
    profile = json.get<MachineProfile>();
    // The library reads an unknown enumerator as the first one.
    if (nlohmann::json(profile.source) != json.at("source")) {
      return absl::InvalidArgumentError(absl::StrCat("profile: source is ", json.at("source").dump()));
    }
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("profile: ", MessageOf(error)));
  }
  SPILLWAY_RETURN_IF_ERROR(ValidateProfile(profile));
  return profile;
}

absl::Status SaveProfile(const MachineProfile& profile, const std::string& path) {
  const std::string json = ProfileToJson(profile);
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Errno("cannot create", temporary);
  size_t written = 0;
  while (written < json.size()) {
    const ssize_t n = write(fd, json.data() + written, json.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    written += static_cast<size_t>(n);
  }
  const bool synced = written == json.size() && fsync(fd) == 0;
  const int write_errno = errno;
  close(fd);
  if (synced && std::rename(temporary.c_str(), path.c_str()) == 0) return absl::OkStatus();
  if (!synced) errno = write_errno;
  const absl::Status status = Errno("cannot write", path);
  unlink(temporary.c_str());
  return status;
}

absl::StatusOr<MachineProfile> LoadProfile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return absl::NotFoundError(absl::StrCat("cannot open the profile ", path, ": ", std::strerror(errno)));
  std::string text(kFileBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is larger than any profile (16 MiB)"));
  }
  absl::StatusOr<MachineProfile> profile = ProfileFromJson(text);
  if (profile.ok()) return profile;
  return absl::Status(profile.status().code(), absl::StrCat(path, ": ", profile.status().message()));
}

}  // namespace spillway::profiler
