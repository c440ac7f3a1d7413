#include "profiler/profile_identity.h"

#include <openssl/sha.h>

#include <array>
#include <fstream>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/bytes.h"
#include "engine/kv/memory_budget.h"

namespace spillway::profiler {
namespace {

constexpr size_t kFileNameDigits = 12;

using Parts = std::vector<std::pair<std::string, std::string>>;

// "name: value; name: value". Separators within a value become commas.
std::string Join(const Parts& parts) {
  return absl::StrJoin(parts, "; ", [](std::string* out, const auto& part) {
    absl::StrAppend(out, part.first, ": ", absl::StrReplaceAll(part.second, {{"; ", ", "}}));
  });
}

std::string Digest(const std::string& text) {
  std::array<uint8_t, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), digest.data());
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

absl::string_view NameOf(model::ActivationKind activation) {
  return activation == model::ActivationKind::kSiluGated ? "gated SiLU" : "ReLU";
}

std::string Encodings(const model::ModelWeights& weights) {
  std::set<absl::string_view> names = {device::InfoOf(weights.head().encoding).name};
  for (const model::LayerWeights& layer : weights.layers()) {
    for (const device::PackedMatrix* matrix : {&layer.qkv, &layer.attention_output, &layer.up, &layer.down}) {
      names.insert(device::InfoOf(matrix->encoding).name);
    }
  }
  return absl::StrJoin(names, "+");
}

}  // namespace

HostIdentity ReadHostIdentity(absl::string_view root) {
  HostIdentity host;
  host.memory_bytes = kv::ReadMemoryBudget(root).total_bytes;
  std::ifstream file(absl::StrCat(root, "/proc/cpuinfo"));
  for (std::string line; host.processor.empty() && std::getline(file, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, "model name")) continue;
    if (const size_t colon = rest.find(": "); colon != absl::string_view::npos) {
      host.processor = std::string(rest.substr(colon + 2));
    }
  }
  if (host.processor.empty()) host.processor = "unknown";
  return host;
}

ProfileIdentity IdentityOf(const HostIdentity& host, const device::DeviceInfo& info,
                           const model::ModelConfig& config, const model::ModelWeights* weights,
                           const kv::Geometry& geometry, absl::string_view ring_chunk, int32_t visit_rows) {
  const auto or_none = [](const std::string& text) { return text.empty() ? std::string("none") : text; };
  ProfileIdentity identity;
  identity.machine_parts = Join({{"processor", host.processor},
                                 {"memory", absl::StrCat((host.memory_bytes + kGiB / 2) / kGiB, " GiB")},
                                 {"device", absl::StrCat(info.kind, ", ", info.name)},
                                 {"threads", absl::StrCat(info.threads)},
                                 {"driver", or_none(info.driver)},
                                 {"link", or_none(info.link)}});
  Parts model = {{"family", std::string(model::NameOf(config.family))},
                 {"layers", absl::StrCat(config.n_layers)},
                 {"d", absl::StrCat(config.d_model)},
                 {"heads", absl::StrCat(config.n_heads)},
                 {"kv heads", absl::StrCat(config.n_kv_heads)},
                 {"d_head", absl::StrCat(config.d_head)},
                 {"d_ff", absl::StrCat(config.d_ff)},
                 {"activation", std::string(NameOf(config.activation))},
                 {"vocabulary", absl::StrCat(config.vocab_size)},
                 {"dtype", device::NameOf(info.compute_dtype)}};
  if (weights != nullptr) model.emplace_back("encodings", Encodings(*weights));
  model.emplace_back("block tokens", absl::StrCat(geometry.block_tokens));
  if (!ring_chunk.empty()) model.emplace_back("ring chunk", ring_chunk);
  if (visit_rows > kUsualVisitRows) model.emplace_back("rows of a visit", absl::StrCat(visit_rows));
  identity.model_parts = Join(model);
  identity.machine = Digest(identity.machine_parts);
  if (weights != nullptr) identity.model = Digest(identity.model_parts);
  return identity;
}

absl::Status CheckProfiledModel(const ProfiledModel& profiled, const model::ModelConfig& config,
                                const kv::Geometry& geometry) {
  const struct {
    const char* name;
    int32_t said;
    int32_t is;
  } numbers[] = {{"n_layers", profiled.n_layers, config.n_layers},
                 {"d_model", profiled.d_model, config.d_model},
                 {"n_heads", profiled.n_heads, config.n_heads},
                 {"n_kv_heads", profiled.n_kv_heads, config.n_kv_heads},
                 {"d_head", profiled.d_head, config.d_head},
                 {"vocab_size", profiled.vocab_size, config.vocab_size},
                 {"element_bytes", profiled.element_bytes, geometry.element_bytes},
                 {"block_tokens", profiled.block_tokens, geometry.block_tokens}};
  for (const auto& [name, said, is] : numbers) {
    if (said == is) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the profile was edited: its model.", name, " is ", said, ", the model's ", is,
                     "; measure again with --reprofile, or name another file"));
  }
  return absl::OkStatus();
}

std::string ProfileFileName(const ProfileIdentity& identity) {
  return absl::StrCat("profile-", identity.machine.substr(0, kFileNameDigits), "-",
                      identity.model.substr(0, kFileNameDigits), ".json");
}

}  // namespace spillway::profiler
