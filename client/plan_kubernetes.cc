#include "client/plan_kubernetes.h"

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "client/console.h"

namespace spillway::client {
namespace {

using profiler::MachineProfile;
using scheduler::PlanExplanation;
using scheduler::PlanQuery;

constexpr int64_t kProcessBytes = 2 * kGiB;

// Bytes may be absurd without being refused; no conversion of them is undefined.
int64_t WholeMiB(double bytes) {
  return static_cast<int64_t>(std::ceil(std::fmin(bytes, 1e18) / static_cast<double>(kMiB)));
}

// K and V of every sequence at its full context: prefixes are shared by luck, whole blocks are not.
double PoolBytes(const MachineProfile& profile, const PlanQuery& query) {
  const double block = profile.model.block_tokens;
  const double blocks = std::ceil(static_cast<double>(query.context_tokens) / block) * query.sequences;
  return blocks * block * profile.model.beta_bytes() * profile.model.n_layers;
}

}  // namespace

std::string KubernetesPatch(const MachineProfile& profile, const PlanExplanation& explanation,
                            const PlanQuery& asked) {
  const PlanQuery& query = explanation.query;
  const int64_t pool_mib =
      WholeMiB(asked.host_pool_bytes > 0 ? asked.host_pool_bytes : PoolBytes(profile, query));
  // Nothing is copied where the device works in the host's memory.
  const bool has_link = profile.copy_in.bytes_per_s > 0;
  const bool weights_on_host = query.stream_weights || !has_link;
  const int64_t memory_mib =
      pool_mib + (weights_on_host ? WholeMiB(profile.model.weight_bytes) : 0) + kProcessBytes / kMiB;

  std::vector<std::pair<std::string, std::string>> flags = {
      {"host_pool", absl::StrCat(pool_mib, "MiB")},
      {"max_sequences", absl::StrCat(query.sequences)},
      {"context", absl::StrCat(query.context_tokens)},
  };
  if (asked.device_memory_bytes > 0) {
    flags.emplace_back("device_memory", absl::StrCat(WholeMiB(asked.device_memory_bytes), "MiB"));
  }
  if (has_link) flags.emplace_back("weights_on", query.stream_weights ? "host" : "device");

  std::string out = absl::StrFormat(
      "# %s: %d sequences of %d tokens, %.1f tokens/s predicted.\n# From the profile: %s\n# spillwayd",
      EscapeToOneLine(explanation.model), query.sequences, query.context_tokens,
      explanation.alternatives.front().tokens_per_s, EscapeToOneLine(explanation.profile));
  for (const auto& [name, value] : flags) absl::StrAppend(&out, " --", name, "=", value);
  absl::StrAppend(
      &out,
      "\n# A patch for deploy/kubernetes: in an overlay's kustomization.yaml, patches: [{path: plan.yaml}]\n"
      "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: spillway\nspec:\n  template:\n    spec:\n"
      "      containers:\n        - name: spillwayd\n          env:\n");
  for (const auto& [name, value] : flags) {
    absl::StrAppend(&out, "            - {name: SPILLWAY_", absl::AsciiStrToUpper(name), ", value: \"", value,
                    "\"}\n");
  }
  absl::StrAppendFormat(&out,
                        "          resources:\n            requests: {memory: %dMi}\n"
                        "            limits: {memory: %dMi}\n",
                        memory_mib, memory_mib);
  return out;
}

}  // namespace spillway::client
