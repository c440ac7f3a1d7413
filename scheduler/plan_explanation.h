// What a person wants to know of a plan: how a batch would be served on a profiled machine, and in which
// other ways. Pure functions of their arguments; `spillway plan` and the ExplainPlan call share them.
#ifndef SPILLWAY_SCHEDULER_PLAN_EXPLANATION_H_
#define SPILLWAY_SCHEDULER_PLAN_EXPLANATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "profiler/machine_profile.h"
#include "scheduler/split_problem.h"

namespace spillway::scheduler {

// A batch of equal sequences, as a person describes it.
struct PlanQuery {
  int32_t sequences = 1;
  // Cached, of each sequence. 0: 4096, or as many as the model was made for where these are fewer.
  int64_t context_tokens = 0;
  int64_t shared_tokens = 0;       // of them, a prefix that all sequences share
  double device_memory_bytes = 0;  // 0: the profile's
  double host_pool_bytes = 0;  // for cached tokens alone; 0: the profile's host memory, less streamed weights
  // Staging, tails, activations; unset: 1 GiB, at most an eighth of the device's memory.
  std::optional<double> scratch_bytes;
  // Device memory for cached tokens, where it is known: a daemon's own. Scratch is then what is left.
  std::optional<double> residency_bytes;
  bool stream_weights = false;  // weights are loaded layer by layer in every step
};

// What a daemon serves with: what a query that does not say otherwise is about.
struct ServedMemory {
  double device_memory_bytes = 0;
  double host_pool_bytes = 0;
  std::optional<double> residency_bytes;  // unset: nothing is carried, all cached tokens lie on the device
  bool streams_weights = false;
};

// The query about these memories where it names none. Weights are kept as the daemon keeps them unless the
// query is about another device, another scratch, or streams them itself.
PlanQuery WithDefaults(PlanQuery query, const ServedMemory& served);

// One way to serve the query.
struct PlanAlternative {
  std::string name;  // "auto", "serial", "transfer", "rebuild", each with residency "auto" or "off"
  SplitSolution solution;
  double tokens_per_s = 0;
  std::string does_not_fit;  // why it cannot be done with these memories; the rest is empty then
};

struct PlanExplanation {
  std::string profile;  // its description
  std::string model;    // its name
  int32_t n_layers = 0;
  double beta_bytes = 0;
  double chi_bytes = 0;
  PlanQuery query;                            // with the defaults filled in
  double weight_bytes = 0;                    // resident on the device; two layers where streamed
  double pool_weight_bytes = 0;               // streamed weights that lie in the query's host pool
  double cache_bytes = 0;                     // K and V of every distinct token, 16 bit or as profiled
  double residency_bytes = 0;                 // device memory that is left for cached tokens
  std::vector<PlanAlternative> alternatives;  // the first is what Spillway would do
};

// kInvalidField lists every number that is out of range; kMemoryTooSmall says how much would do for the first
// alternative. Takes about a millisecond at most, whatever the numbers.
absl::StatusOr<PlanExplanation> ExplainPlan(const profiler::MachineProfile& profile, const PlanQuery& asked);

// The explanation as a person reads it: the split, each resource's time, what binds, memory, the
// alternatives.
std::string FormatExplanation(const PlanExplanation& explanation);
// The same and every alternative's split as JSON, with units in the names and a schema_version.
std::string ExplanationToJson(const PlanExplanation& explanation);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PLAN_EXPLANATION_H_
