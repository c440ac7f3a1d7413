#include "server/profile_step.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "profiler/measure.h"
#include "profiler/profile_identity.h"
#include "profiler/profile_text.h"
#include "server/engine.h"
#include "server/executor_setup.h"
#include "server/pool_setup.h"

namespace spillway::server {
namespace {

using profiler::MachineProfile;

bool IsWanted(const Settings& settings, const device::DeviceInfo& info) {
  return !info.host_addressable || !settings.profile.empty() || settings.reprofile || settings.profile_only;
}

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string CacheFolder(const Settings& settings) {
  if (!settings.cache_dir.empty()) return settings.cache_dir;
  if (const std::string xdg = Environment("XDG_CACHE_HOME"); !xdg.empty()) return xdg + "/spillway";
  if (const std::string home = Environment("HOME"); !home.empty()) return home + "/.cache/spillway";
  return "";
}

// The saved profile, empty where there is none or one to be replaced.
absl::StatusOr<std::optional<MachineProfile>> ReadSaved(const Settings& settings, const std::string& path,
                                                        const profiler::ProfileIdentity& identity,
                                                        const model::ModelConfig& config,
                                                        const kv::Geometry& geometry) {
  if (path.empty() || settings.reprofile) return std::nullopt;
  absl::StatusOr<MachineProfile> saved = profiler::LoadProfile(path);
  absl::Status status = saved.status();
  if (absl::IsNotFound(status)) {
    std::error_code error;
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    if (settings.profile.empty() || folder.empty() || std::filesystem::is_directory(folder, error)) {
      return std::nullopt;
    }
    return absl::NotFoundError(absl::StrCat("--profile=", settings.profile,
                                            ": there is no such folder; make it, or name another file"));
  }
  if (status.ok()) status = profiler::CheckProfileMatches(*saved, identity);
  if (status.ok()) status = profiler::CheckProfiledModel(saved->model, config, geometry);
  if (status.ok()) return *std::move(saved);
  if (!settings.profile.empty()) {
    // A file that cannot be read is named by its error.
    const bool unread = !saved.ok();
    const bool has_way_out = absl::StrContains(status.message(), "--reprofile");
    return absl::Status(
        status.code(),
        absl::StrCat("--profile", unread ? "" : absl::StrCat("=", settings.profile), ": ", status.message(),
                     has_way_out ? "" : "; measure again with --reprofile, or name another file"));
  }
  Log(LogLevel::kWarning, "the saved profile cannot be used; measuring again",
      {{"path", path}, {"cause", status.message()}});
  return std::nullopt;
}

// False where it cannot be; the log says why.
bool Save(const MachineProfile& profile, const std::string& path) {
  if (path.empty()) {
    Log(LogLevel::kWarning, "the profile is not saved: no HOME, XDG_CACHE_HOME, --cache_dir or --profile");
    return false;
  }
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder, error);  // saving says what is wrong
  if (const absl::Status saved = profiler::SaveProfile(profile, path); !saved.ok()) {
    Log(LogLevel::kWarning, "the profile is not saved: the next start measures again",
        {{"cause", saved.message()}});
    return false;
  }
  return true;
}

// What a chunk of the staging ring holds of X, and of K and V.
struct ChunkTokens {
  int32_t x = 0;
  int32_t kv = 0;
  bool operator==(const ChunkTokens&) const = default;
};

ChunkTokens ChunkTokensOf(const device::DeviceInfo& info, const kv::Geometry& geometry) {
  const int64_t chunk_bytes = RingChunkBytes(info, geometry);
  const auto whole_blocks = [&](int64_t token_bytes) {
    return static_cast<int32_t>(chunk_bytes / (geometry.block_tokens * token_bytes) * geometry.block_tokens);
  };
  return {whole_blocks(geometry.chi_bytes()), whole_blocks(geometry.beta_bytes())};
}

// Rows of a visit at most.
int32_t VisitRows(const Settings& settings, const device::DeviceInfo& info) {
  return info.host_addressable ? static_cast<int32_t>(settings.prefill_chunk_tokens) : LinkItemRows(settings);
}

// Null `weights`: before they are loaded.
profiler::ProfileIdentity IdentityHere(const Settings& settings, const device::DeviceInfo& info,
                                       const model::ModelConfig& config, const kv::Geometry& geometry,
                                       const model::ModelWeights* weights) {
  device::DeviceInfo large = info;
  large.memory_bytes = std::numeric_limits<int64_t>::max();
  const ChunkTokens chunk = ChunkTokensOf(info, geometry);
  const std::string ring_chunk =
      chunk == ChunkTokensOf(large, geometry)
          ? ""
          : absl::StrCat(chunk.x, " tokens of X, ", chunk.kv, " of K and V (--device_memory)");
  return profiler::IdentityOf(profiler::ReadHostIdentity("/"), info, config, weights, geometry, ring_chunk,
                              VisitRows(settings, info));
}

void LogProgress(absl::string_view phase, int done, int total) {
  Log(LogLevel::kInfo, "profiling", {{"phase", phase}, {"done", done}, {"total", total}});
}

// Where there is no memory to measure in, or the numbers make no sense.
bool IsUnmeasurable(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsInvalidArgument(status);
}

absl::StatusOr<MachineProfile> Measure(const Settings& settings, device::Device& device,
                                       const model::Model& model, const kv::Geometry& geometry) {
  profiler::MeasureOptions options;
  options.visit_rows = VisitRows(settings, device.info());
  const ChunkTokens chunk = ChunkTokensOf(device.info(), geometry);
  options.chunk_tokens = chunk.x;
  options.kv_chunk_tokens = chunk.kv;
  options.numa_node = HostNumaNode(settings, device.info());
  options.progress = &LogProgress;
  return profiler::MeasureProfile(device, model.config, *model.weights, geometry, options);
}

}  // namespace

std::string ProfilePath(const Settings& settings, const profiler::ProfileIdentity& identity) {
  if (!settings.profile.empty()) return settings.profile;
  const std::string folder = CacheFolder(settings);
  return folder.empty() ? "" : absl::StrCat(folder, "/", profiler::ProfileFileName(identity));
}

absl::Status CheckProfileFlag(const Settings& settings, const model::ModelConfig& config,
                              const device::DeviceInfo& info) {
  if (settings.profile.empty()) return absl::OkStatus();
  const kv::Geometry geometry = GeometryOf(info, config);
  const profiler::ProfileIdentity identity =
      IdentityHere(settings, info, config, geometry, /*weights=*/nullptr);
  return ReadSaved(settings, settings.profile, identity, config, geometry).status();
}

absl::StatusOr<ObtainedProfile> ObtainProfile(const Settings& settings, device::Device& device,
                                              const model::Model& model) {
  const device::DeviceInfo& info = device.info();
  if (!IsWanted(settings, info)) return ObtainedProfile();
  const kv::Geometry geometry = GeometryOf(info, model.config);
  const profiler::ProfileIdentity identity =
      IdentityHere(settings, info, model.config, geometry, model.weights.get());
  const std::string path = ProfilePath(settings, identity);
  SPILLWAY_ASSIGN_OR_RETURN(std::optional<MachineProfile> profile,
                            ReadSaved(settings, path, identity, model.config, geometry));
  if (profile.has_value()) {
    // Nothing that is measured depends on it, so models that differ in it alone share a profile.
    profile->model.context_length = model.config.context_length;
    Log(LogLevel::kInfo, "profile read", {{"path", path}, {"profile", profile->description}});
    return ObtainedProfile{*std::move(profile)};
  }
  absl::StatusOr<MachineProfile> measured = Measure(settings, device, model, geometry);
  if (IsUnmeasurable(measured.status())) {
    Log(LogLevel::kWarning, "no profile: this machine could not be measured",
        {{"cause", measured.status().message()}});
    return ObtainedProfile();
  }
  SPILLWAY_RETURN_IF_ERROR(measured.status());
  measured->identity = identity;
  const bool is_saved = Save(*measured, path);
  Log(LogLevel::kInfo, "profile measured",
      {{"seconds", measured->measuring_s},
       {"path", path},
       {"link_in_gb_per_s", measured->copy_in.bytes_per_s / 1e9},
       {"link_out_gb_per_s", measured->copy_out.bytes_per_s / 1e9}});
  return ObtainedProfile{*std::move(measured), !is_saved};
}

absl::Status MeasureLinkAgain(const Settings& settings, device::Device& device, const kv::Geometry& geometry,
                              MachineProfile& profile) {
  profiler::MeasureOptions options;
  options.numa_node = HostNumaNode(settings, device.info());
  options.progress = &LogProgress;
  absl::Status measured = profiler::MeasurePageableLink(device, geometry, options, profile);
  if (IsUnmeasurable(measured)) {
    Log(LogLevel::kWarning,
        "the link could not be measured for memory that is not page-locked: plans are for memory that is",
        {{"cause", measured.message()}});
    return absl::OkStatus();
  }
  if (measured.ok()) {
    Log(LogLevel::kInfo, "the link measured again, for memory that is not page-locked",
        {{"link_in_gb_per_s", profile.copy_in.bytes_per_s / 1e9},
         {"link_out_gb_per_s", profile.copy_out.bytes_per_s / 1e9}});
  }
  return measured;
}

absl::Status ProfileOnly(const Settings& settings, device::Device& device) {
  SPILLWAY_ASSIGN_OR_RETURN(const ModelHeader header, ReadModelHeader(settings));
  SPILLWAY_ASSIGN_OR_RETURN(const model::Model model, LoadServedModel(settings, header, device));
  SPILLWAY_ASSIGN_OR_RETURN(const ObtainedProfile obtained, ObtainProfile(settings, device, model));
  if (!obtained.profile.has_value())
    return absl::UnavailableError("no profile could be measured; the log has the cause");
  std::fputs(profiler::FormatProfile(*obtained.profile).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace spillway::server
