// The linear program that splits a step's cached tokens between the link, the device's compute and the host.
//
// The same problem serves twice. *Carry*: residency and stored forms are what they are; the solution says how
// many of each layer's non-resident tokens are carried as K and V (k), carried as X and rebuilt (x), or
// attended on the host (h). *Placement*: residency and forms are free within memory; the solution gives the
// targets that the pool and the residency drift towards.
//
// Pipelined form: minimise T subject to, for every resource, seconds of work <= T (see docs/architecture.md).
// Serial form (the KVPR paper's, arXiv 2411.17089): a layer's X is exposed, so a layer takes
//   max(x*chi/B_in, T_linear + T_attention) + max(rebuild(x), k*beta/B_in).
//
// Stateless and thread-compatible; a thread that solved calls ReleaseSolver last (linear_program.h). Whatever
// the numbers, a call returns: inputs are validated before the solver sees them, outputs against the rows
// afterwards.
#ifndef SPILLWAY_SCHEDULER_SPLIT_PROBLEM_H_
#define SPILLWAY_SCHEDULER_SPLIT_PROBLEM_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/exec/split_plan.h"

namespace spillway::scheduler {

// seconds(n) = max over pieces of (fixed_s + per_token_s * n): convex, as measured costs of batches are. No
// tokens at all cost nothing.
struct ConvexCost {
  struct Piece {
    double fixed_s = 0;
    double per_token_s = 0;
  };
  std::vector<Piece> pieces;  // at most 8

  double At(double tokens) const;
};

// Layers that see the same cached tokens (a sliding window gives its layers fewer). Tokens are distinct and
// per layer.
struct LayerGroup {
  int32_t n_layers = 0;
  double resident_kv_tokens = 0;
  double resident_x_tokens = 0;
  double host_kv_tokens = 0;  // stored as K and V only
  double host_x_tokens = 0;   // stored as X only
  double host_both_tokens = 0;
  double linear_s = 0;      // a layer's products for the step's rows
  double attention_s = 0;   // a layer's attention over the step's reads
  double weight_bytes = 0;  // to load in this pass, a layer; 0 when resident
  double store_bytes = 0;   // K, V and X that the step stores, a layer
};

struct SplitRates {
  double link_in_bytes_per_s = 0;
  double link_out_bytes_per_s = 0;
  double link_both_bytes_per_s = 0;  // in and out together
  double host_memory_bytes_per_s = 0;
  double host_attention_bytes_per_s = 0;  // 0: no host attention, h = 0
  double host_attention_fixed_s = 0;      // a layer
  ConvexCost rebuild;                     // one layer's K and V from X, by tokens
  // Compute takes this many times longer while the link in is busy. Every cost of compute is given as it is
  // beside a busy link; what is left when the link is done goes on at the faster rate.
  double compute_slowdown_by_link = 1;
};

// Placement: what memory allows. All cached tokens are stored on the host; some are resident besides.
struct PlacementBudget {
  double device_bytes = 0;  // for resident KV and X of all layers, and for what is fixed
  double host_bytes = 0;    // for the stored forms of all layers, and for what is fixed
  // Taken whatever is placed: tails, the staging ring, two weight slots where weights are streamed, scratch;
  // on the host weights that are streamed.
  double device_fixed_bytes = 0;
  double host_fixed_bytes = 0;
  // Set: this share of each group's tokens is resident, as KV.
  std::optional<double> resident_fraction = std::nullopt;
  // False: X is stored, and resident, nowhere.
  bool stores_x = true;
};

struct SplitInputs {
  exec::SplitMode mode = exec::SplitMode::kAuto;
  double fixed_fraction = 0;  // kFixed: share of the non-resident tokens carried as X
  double beta_bytes = 0;
  double chi_bytes = 0;  // on the link
  // What X takes of the pool and the device, where that is more (whole slots); 0: chi_bytes.
  double stored_chi_bytes = 0;
  double head_s = 0;  // final norm, head, sampling
  // Carry, pipelined: what compute has left to do when the step's last copy in is over, less what is copied
  // for the next step meanwhile. A step takes the link's time and this.
  double link_tail_s = 0;
  SplitRates rates;
  std::vector<LayerGroup> groups;  // 1..16
  // Set: residency and forms are variables, and each group's five token counts only give their sum.
  std::optional<PlacementBudget> placement;

  double chi_memory_bytes() const { return std::max(chi_bytes, stored_chi_bytes); }
};

struct GroupSplit {
  double carried_kv_tokens = 0;
  double carried_x_tokens = 0;
  double host_attended_tokens = 0;
  double resident_kv_tokens = 0;  // as given, or placed
  double resident_x_tokens = 0;
  double host_kv_tokens = 0;
  double host_x_tokens = 0;
  double host_both_tokens = 0;
};

// "link in", "compute", ...
absl::string_view NameOf(exec::Resource resource);

struct StepTimes {
  double step_s = 0;
  // Pipelined work of each resource; of the link in without the tail that follows it.
  std::array<double, exec::kResources> resource_s{};
  exec::Resource binding = exec::Resource::kCompute;
};

struct SplitSolution : StepTimes {
  std::vector<GroupSplit> groups;
  int32_t simplex_iterations = 0;
};

// InvalidArgument names the first field that is NaN, infinite, negative or out of range. (split_inputs.cc)
absl::Status ValidateSplitInputs(const SplitInputs& inputs);

// As ValidateSplitInputs; FailedPrecondition: memory too small for any placement in this mode (the message
// says how much would do); Internal: the solver failed or its answer broke a row. Takes microseconds;
// allocates.
absl::StatusOr<SplitSolution> SolveSplit(const SplitInputs& inputs);

// Host bytes, of a layer, that are enough for a token that is not resident in the forms that the mode needs.
double HostTokenBytes(const SplitInputs& inputs, bool stores_x);

// Seconds of each resource and of the step if `groups` were obeyed: the rows evaluated, without a solver and
// without allocating. REQUIRES: as many groups as inputs.groups. (split_inputs.cc)
StepTimes EvaluateTimes(const SplitInputs& inputs, absl::Span<const GroupSplit> groups);
SplitSolution EvaluateSplit(const SplitInputs& inputs, const std::vector<GroupSplit>& groups);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_SPLIT_PROBLEM_H_
