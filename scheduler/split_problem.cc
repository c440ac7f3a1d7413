#include "scheduler/split_problem.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "scheduler/linear_program.h"

namespace spillway::scheduler {
namespace {

using exec::SplitMode;
using Column = LinearProgram::Column;

// Among splits of equal T the one that moves least is preferred, then the one that rebuilds least: the
// objective adds this for each share of the tokens, above the solver's tolerance and far below what T is
// known to.
constexpr double kTieWeight = 2e-8;
constexpr double kRowTolerance = 1e-6;
// So little of a token is none; what it costs is what comes before the first one.
constexpr double kFirstToken = 1e-6;

double Movable(const LayerGroup& g) { return g.host_kv_tokens + g.host_x_tokens + g.host_both_tokens; }
double AllTokens(const LayerGroup& g) { return Movable(g) + g.resident_kv_tokens + g.resident_x_tokens; }

std::string Bytes(double bytes) { return FormatBytes(static_cast<int64_t>(std::min(bytes, 9e18))); }
// Whole bytes that are enough for `bytes`, a sum that may be off in its last digits.
std::string EnoughBytes(double bytes) {
  return FormatExactBytes(static_cast<int64_t>(std::ceil(std::min(bytes, 9e18) - 1e-3)));
}

// Refuses what no placement can hold: on the device what must be resident, on the host every other token.
absl::Status CheckPlacementFits(const SplitInputs& in) {
  if (!in.placement.has_value()) return absl::OkStatus();
  const PlacementBudget& budget = *in.placement;
  const bool rebuilds =
      in.mode == SplitMode::kRebuild || (in.mode == SplitMode::kFixed && in.fixed_fraction > 0);
  if (rebuilds && !budget.stores_x) {
    return absl::FailedPreconditionError("X is not stored, so nothing can be rebuilt from it");
  }
  const double resident = budget.resident_fraction.value_or(0);
  double device_bytes = budget.device_fixed_bytes;
  for (const LayerGroup& g : in.groups) device_bytes += g.n_layers * AllTokens(g) * resident * in.beta_bytes;
  if (device_bytes <= budget.device_bytes * (1 + 1e-9)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the device memory's ", Bytes(budget.device_bytes),
                                                    " do not hold what must be there; ",
                                                    EnoughBytes(device_bytes), " would"));
}

absl::Status PoolTooSmall(const SplitInputs& in) {
  const PlacementBudget& budget = *in.placement;
  const double resident = budget.resident_fraction.value_or(0);
  double host_bytes = budget.host_fixed_bytes;
  for (const LayerGroup& g : in.groups) {
    host_bytes += g.n_layers * AllTokens(g) *
                  (resident * in.beta_bytes + (1 - resident) * HostTokenBytes(in, budget.stores_x));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the host pool's ", Bytes(budget.host_bytes),
      " cannot store these tokens in the forms that this mode needs; ", EnoughBytes(host_bytes), " would"));
}

// Columns of one layer group.
struct GroupColumns {
  int k = 0, x = 0, h = 0, rebuild = 0;
  int g_kv = 0, g_x = 0, s_kv = 0, s_x = 0, s_both = 0;  // placement only
};

// Token columns are shares of `token_scale_` and times shares of `time_scale_`, so that all coefficients are
// near one however large the machine.
class SplitBuilder {
 public:
  explicit SplitBuilder(const SplitInputs& in) : in_(in) {
    for (const LayerGroup& g : in.groups) {
      token_scale_ = std::max(token_scale_, AllTokens(g));
      may_rebuild_ |= in.placement.has_value()
                          ? in.placement->stores_x
                          : g.host_x_tokens + g.host_both_tokens + g.resident_x_tokens > 0;
    }
    time_scale_ = TimeScale();
    inv_time_ = 1 / time_scale_;
  }

  absl::StatusOr<SplitSolution> Solve() {
    const bool serial = in_.mode == SplitMode::kSerial;
    step_ = lp_.AddColumn("T", 0, LinearProgram::kUnbounded, serial ? 0 : 1);
    for (size_t i = 0; i < in_.groups.size(); ++i) AddGroup(i);
    if (serial) {
      for (size_t i = 0; i < in_.groups.size(); ++i) AddSerialGroup(i);
    } else {
      AddPipelinedRows();
    }
    if (in_.placement.has_value()) AddMemoryRows();
    SPILLWAY_RETURN_IF_ERROR(lp_.Solve());
    return Extract();
  }

 private:
  // Seconds that carrying and rebuilding everything one after the other would take.
  double TimeScale() const {
    double seconds = in_.head_s;
    for (const LayerGroup& g : in_.groups) {
      const double tokens = AllTokens(g);
      const double bytes = tokens * in_.beta_bytes + g.weight_bytes;
      seconds += g.n_layers * (g.linear_s + g.attention_s + in_.rates.rebuild.At(tokens) +
                               bytes / in_.rates.link_in_bytes_per_s);
    }
    return std::max(seconds, 1e-12);
  }

  double Share(double tokens) const { return tokens / token_scale_; }
  // Coefficient of a token column in a row of seconds: `seconds_per_token` for each of the group's layers.
  double Cost(const LayerGroup& g, double seconds_per_token) const {
    return g.n_layers * seconds_per_token * token_scale_ * inv_time_;
  }

  void AddGroup(size_t i) {
    const LayerGroup& g = in_.groups[i];
    GroupColumns c;
    const std::string suffix = absl::StrCat("[", i, "]");
    const double all = Share(AllTokens(g));
    const double host_max = in_.rates.host_attention_bytes_per_s > 0 ? all : 0;
    if (in_.placement.has_value()) {
      const bool rebuild = in_.mode == SplitMode::kRebuild;
      const double x_max = in_.placement->stores_x ? all : 0;
      c.k = lp_.AddColumn("k" + suffix, 0, rebuild ? 0 : all);
      c.x = lp_.AddColumn("x" + suffix, 0, in_.mode == SplitMode::kTransfer ? 0 : x_max);
      c.h = lp_.AddColumn("h" + suffix, 0, rebuild ? 0 : host_max);
      if (in_.mode == SplitMode::kFixed) {
        const double f = in_.fixed_fraction;
        lp_.AddEqual("fixed" + suffix, 0, {{c.x, 1 - f}, {c.k, -f}, {c.h, -f}});
      }
      const std::optional<double> resident = in_.placement->resident_fraction;
      c.g_kv = lp_.AddColumn("g_kv" + suffix, resident.value_or(0) * all, resident.value_or(1) * all);
      c.g_x = lp_.AddColumn("g_x" + suffix, 0, resident.has_value() ? 0 : x_max, kTieWeight / 2);
      c.s_kv = lp_.AddColumn("s_kv" + suffix, 0, all);
      c.s_x = lp_.AddColumn("s_x" + suffix, 0, x_max);
      c.s_both = lp_.AddColumn("s_both" + suffix, 0, x_max);
      lp_.AddEqual("tokens" + suffix, all, {{c.k, 1}, {c.x, 1}, {c.h, 1}, {c.g_kv, 1}, {c.g_x, 1}});
      lp_.AddEqual("stored" + suffix, all, {{c.s_kv, 1}, {c.s_x, 1}, {c.s_both, 1}});
      lp_.AddAtMost("kv_form" + suffix, 0, {{c.k, 1}, {c.h, 1}, {c.g_kv, 1}, {c.s_kv, -1}, {c.s_both, -1}});
      lp_.AddAtMost("x_form" + suffix, 0, {{c.x, 1}, {c.g_x, 1}, {c.s_x, -1}, {c.s_both, -1}});
    } else {
      AddCarryColumns(g, suffix, c);
    }
    const double form_bytes = in_.beta_bytes + in_.chi_bytes;
    lp_.AddToObjective(c.k, kTieWeight * (1 + in_.beta_bytes / form_bytes));
    lp_.AddToObjective(c.x, kTieWeight * (1 + in_.chi_bytes / form_bytes));
    AddRebuild(g, suffix, c);
    columns_.push_back(c);
  }

  void AddCarryColumns(const LayerGroup& g, const std::string& suffix, GroupColumns& c) {
    const double movable = Share(Movable(g));
    double x_low = Share(g.host_x_tokens);
    double x_high = Share(g.host_x_tokens + g.host_both_tokens);
    if (in_.mode == SplitMode::kTransfer) x_high = x_low;
    if (in_.mode == SplitMode::kRebuild) x_low = x_high;
    if (in_.mode == SplitMode::kFixed) {
      x_low = x_high = std::clamp(in_.fixed_fraction * movable, x_low, x_high);
    }
    c.x = lp_.AddColumn("x" + suffix, x_low, x_high);
    const double kv_high = Share(g.host_kv_tokens + g.host_both_tokens);
    c.k = lp_.AddColumn("k" + suffix, 0, kv_high);
    c.h = lp_.AddColumn("h" + suffix, 0, in_.rates.host_attention_bytes_per_s > 0 ? kv_high : 0);
    lp_.AddEqual("tokens" + suffix, movable, {{c.k, 1}, {c.x, 1}, {c.h, 1}});
    lp_.AddAtMost("kv_form" + suffix, kv_high, {{c.k, 1}, {c.h, 1}});
  }

  // One layer's rebuild time over x and the resident X, from below by each piece.
  void AddRebuild(const LayerGroup& g, const std::string& suffix, GroupColumns& c) {
    c.rebuild = lp_.AddColumn("rebuild" + suffix, 0, LinearProgram::kUnbounded);
    if (!may_rebuild_) return;
    for (size_t p = 0; p < in_.rates.rebuild.pieces.size(); ++p) {
      const ConvexCost::Piece& piece = in_.rates.rebuild.pieces[p];
      const double slope = piece.per_token_s * token_scale_ * inv_time_;
      double fixed = piece.fixed_s * inv_time_;
      std::vector<Column> row = {{c.rebuild, 1}, {c.x, -slope}};
      if (in_.placement.has_value()) {
        row.push_back({c.g_x, -slope});
      } else {
        fixed += piece.per_token_s * g.resident_x_tokens * inv_time_;
      }
      lp_.AddAtLeast(absl::StrCat("rebuild", suffix, ".", p), fixed, row);
    }
  }

  // sum of columns + constant <= T
  void AddResourceRow(const std::string& name, double constant_s, std::vector<Column> columns) {
    columns.push_back({step_, -1});
    lp_.AddAtMost(name, -constant_s * inv_time_, columns);
  }

  void AddPipelinedRows() {
    const SplitRates& r = in_.rates;
    std::vector<Column> in, both, compute, host, dram;
    double weight_bytes = 0, store_bytes = 0, compute_s = in_.head_s, host_fixed_s = 0;
    for (size_t i = 0; i < in_.groups.size(); ++i) {
      const LayerGroup& g = in_.groups[i];
      const GroupColumns& c = columns_[i];
      weight_bytes += g.n_layers * g.weight_bytes;
      store_bytes += g.n_layers * g.store_bytes;
      compute_s += g.n_layers * (g.linear_s + g.attention_s);
      host_fixed_s += g.n_layers * r.host_attention_fixed_s;
      const auto carry = [&](std::vector<Column>& row, double rate) {
        row.push_back({c.k, Cost(g, in_.beta_bytes / rate)});
        row.push_back({c.x, Cost(g, in_.chi_bytes / rate)});
      };
      carry(in, r.link_in_bytes_per_s);
      carry(both, r.link_both_bytes_per_s);
      carry(dram, r.host_memory_bytes_per_s);
      dram.push_back({c.h, Cost(g, in_.beta_bytes / r.host_memory_bytes_per_s)});
      compute.push_back({c.rebuild, static_cast<double>(g.n_layers)});
      if (r.host_attention_bytes_per_s > 0) {
        host.push_back({c.h, Cost(g, in_.beta_bytes / r.host_attention_bytes_per_s)});
      }
    }
    // Compute beside a busy link for as long as there is one, then at rest: l + (c - l) / slowdown, which is
    // below the link's own row where compute is done first.
    const double at_rest = 1 / r.compute_slowdown_by_link;
    for (Column& column : compute) column.coefficient *= at_rest;
    for (const Column& column : in) compute.push_back({column.index, column.coefficient * (1 - at_rest)});
    compute_s = compute_s * at_rest + weight_bytes / r.link_in_bytes_per_s * (1 - at_rest);
    const double tail_s = in_.placement.has_value() ? 0 : in_.link_tail_s;
    AddResourceRow("link_in", weight_bytes / r.link_in_bytes_per_s + tail_s, in);
    AddResourceRow("link_out", store_bytes / r.link_out_bytes_per_s, {});
    AddResourceRow("link_both", (weight_bytes + store_bytes) / r.link_both_bytes_per_s, both);
    AddResourceRow("compute", compute_s, compute);
    if (r.host_attention_bytes_per_s > 0) AddResourceRow("host_attention", host_fixed_s, host);
    AddResourceRow("host_memory", weight_bytes / r.host_memory_bytes_per_s, dram);
  }

  // Two phases a layer, each its own column: X against the layer's other compute, then rebuild against KV.
  void AddSerialGroup(size_t i) {
    const LayerGroup& g = in_.groups[i];
    const GroupColumns& c = columns_[i];
    const double layers = g.n_layers;
    const double rate = in_.rates.link_in_bytes_per_s;
    const std::string suffix = absl::StrCat("[", i, "]");
    const int first = lp_.AddColumn("first" + suffix, (g.linear_s + g.attention_s) * inv_time_,
                                    LinearProgram::kUnbounded, layers);
    const int second = lp_.AddColumn("second" + suffix, 0, LinearProgram::kUnbounded, layers);
    const double x_cost = Cost(g, in_.chi_bytes / rate) / layers;
    const double k_cost = Cost(g, in_.beta_bytes / rate) / layers;
    lp_.AddAtMost("serial_x" + suffix, 0, {{c.x, x_cost}, {first, -1}});
    lp_.AddAtMost("serial_kv" + suffix, -g.weight_bytes / rate * inv_time_, {{c.k, k_cost}, {second, -1}});
    lp_.AddAtMost("serial_rebuild" + suffix, 0, {{c.rebuild, 1}, {second, -1}});
    // No overlap with the host's attention is claimed for the serial form.
    if (in_.rates.host_attention_bytes_per_s > 0) {
      lp_.AddToObjective(c.h, Cost(g, in_.beta_bytes / in_.rates.host_attention_bytes_per_s));
    }
  }

  void AddMemoryRows() {
    std::vector<Column> device, host;
    const double beta = in_.beta_bytes, chi = in_.chi_memory_bytes();
    const double bytes_scale = std::max(1.0, token_scale_ * std::max(beta, chi));
    const PlacementBudget& budget = *in_.placement;
    const auto coefficient = [&](const LayerGroup& g, double bytes) {
      return g.n_layers * bytes * token_scale_ / bytes_scale;
    };
    for (size_t i = 0; i < in_.groups.size(); ++i) {
      const LayerGroup& g = in_.groups[i];
      const GroupColumns& c = columns_[i];
      device.push_back({c.g_kv, coefficient(g, beta)});
      device.push_back({c.g_x, coefficient(g, chi)});
      host.push_back({c.s_kv, coefficient(g, beta)});
      host.push_back({c.s_x, coefficient(g, chi)});
      host.push_back({c.s_both, coefficient(g, beta + chi)});
    }
    lp_.AddAtMost("device_memory", (budget.device_bytes - budget.device_fixed_bytes) / bytes_scale, device);
    lp_.AddAtMost("host_pool", (budget.host_bytes - budget.host_fixed_bytes) / bytes_scale, host);
  }

  absl::StatusOr<SplitSolution> Extract() const {
    std::vector<GroupSplit> groups;
    for (size_t i = 0; i < in_.groups.size(); ++i) {
      const LayerGroup& g = in_.groups[i];
      const GroupColumns& c = columns_[i];
      const auto tokens = [&](int column) {
        const double value = lp_.Value(column) * token_scale_;
        return value < kFirstToken ? 0.0 : value;
      };
      GroupSplit split;
      split.carried_kv_tokens = tokens(c.k);
      split.carried_x_tokens = tokens(c.x);
      split.host_attended_tokens = tokens(c.h);
      const bool placed = in_.placement.has_value();
      split.resident_kv_tokens = placed ? tokens(c.g_kv) : g.resident_kv_tokens;
      split.resident_x_tokens = placed ? tokens(c.g_x) : g.resident_x_tokens;
      split.host_kv_tokens = placed ? tokens(c.s_kv) : g.host_kv_tokens;
      split.host_x_tokens = placed ? tokens(c.s_x) : g.host_x_tokens;
      split.host_both_tokens = placed ? tokens(c.s_both) : g.host_both_tokens;
      SPILLWAY_RETURN_IF_ERROR(CheckGroup(g, split));
      groups.push_back(split);
    }
    SplitSolution solution = EvaluateSplit(in_, groups);
    solution.simplex_iterations = lp_.iterations();
    if (!std::isfinite(solution.step_s)) return absl::InternalError("the solver's split has no finite time");
    SPILLWAY_RETURN_IF_ERROR(CheckMemory(solution));
    return solution;
  }

  absl::Status CheckMemory(const SplitSolution& solution) const {
    if (!in_.placement.has_value()) return absl::OkStatus();
    const PlacementBudget& budget = *in_.placement;
    const double beta = in_.beta_bytes, chi = in_.chi_memory_bytes();
    double device_bytes = 0, host_bytes = 0, all_bytes = 1;
    for (size_t i = 0; i < in_.groups.size(); ++i) {
      const double layers = in_.groups[i].n_layers;
      const GroupSplit& s = solution.groups[i];
      device_bytes += layers * (s.resident_kv_tokens * beta + s.resident_x_tokens * chi);
      host_bytes += layers * ((s.host_kv_tokens + s.host_both_tokens) * beta +
                              (s.host_x_tokens + s.host_both_tokens) * chi);
      all_bytes += layers * AllTokens(in_.groups[i]) * (beta + chi);
    }
    const double slack = kRowTolerance * all_bytes;
    if (device_bytes <= budget.device_bytes - budget.device_fixed_bytes + slack &&
        host_bytes <= budget.host_bytes - budget.host_fixed_bytes + slack) {
      return absl::OkStatus();
    }
    return absl::InternalError("the solver's placement takes more memory than there is");
  }

  // The rows again, on the answer: a solver fed with garbage may return it as optimal.
  absl::Status CheckGroup(const LayerGroup& g, const GroupSplit& s) const {
    const double slack = kRowTolerance * token_scale_;
    const double sum = s.carried_kv_tokens + s.carried_x_tokens + s.host_attended_tokens +
                       s.resident_kv_tokens + s.resident_x_tokens;
    const bool sum_ok = std::abs(sum - AllTokens(g)) <= slack;
    const double kv_stored = s.host_kv_tokens + s.host_both_tokens;
    const double x_stored = s.host_x_tokens + s.host_both_tokens;
    const bool placed = in_.placement.has_value();
    const double kv_used = s.carried_kv_tokens + s.host_attended_tokens + (placed ? s.resident_kv_tokens : 0);
    const double x_used = s.carried_x_tokens + (placed ? s.resident_x_tokens : 0);
    if (sum_ok && kv_used <= kv_stored + slack && x_used <= x_stored + slack) return absl::OkStatus();
    return absl::InternalError("the solver's split breaks a row of its problem");
  }

  const SplitInputs& in_;
  double token_scale_ = 1;
  double time_scale_ = 1;
  double inv_time_ = 1;
  bool may_rebuild_ = false;
  LinearProgram lp_;
  int step_ = 0;
  std::vector<GroupColumns> columns_;
};

// The rows charge what comes before the first rebuilt token even where none is rebuilt. Where that is much
// and nothing has to be, the optimum without rebuilding is another problem.
bool PaysForNothing(const SplitInputs& in) {
  if (in.mode != SplitMode::kAuto && in.mode != SplitMode::kSerial) return false;
  if (in.rates.rebuild.At(kFirstToken) <= in.rates.rebuild.At(1) / 2) return false;
  bool may_rebuild = in.placement.has_value() && in.placement->stores_x;
  for (const LayerGroup& g : in.groups) {
    if (in.placement.has_value()) continue;
    if (g.host_x_tokens + g.resident_x_tokens > 0) return false;
    may_rebuild |= g.host_both_tokens > 0;
  }
  return may_rebuild;
}

}  // namespace

absl::StatusOr<SplitSolution> SolveSplit(const SplitInputs& inputs) {
  SPILLWAY_RETURN_IF_ERROR(ValidateSplitInputs(inputs));
  SPILLWAY_RETURN_IF_ERROR(CheckPlacementFits(inputs));
  absl::StatusOr<SplitSolution> solution = SplitBuilder(inputs).Solve();
  if (absl::IsFailedPrecondition(solution.status()) && inputs.placement.has_value())
    return PoolTooSmall(inputs);
  if (!solution.ok() || !PaysForNothing(inputs)) return solution;
  SplitInputs without = inputs;
  if (without.placement.has_value()) without.placement->stores_x = false;
  for (LayerGroup& g : without.groups) g.host_kv_tokens += std::exchange(g.host_both_tokens, 0);
  absl::StatusOr<SplitSolution> transfer = SplitBuilder(without).Solve();
  if (!transfer.ok() || transfer->step_s >= solution->step_s) return solution;
  for (size_t i = 0; i < inputs.groups.size() && !inputs.placement.has_value(); ++i) {
    transfer->groups[i].host_kv_tokens = inputs.groups[i].host_kv_tokens;
    transfer->groups[i].host_both_tokens = inputs.groups[i].host_both_tokens;
  }
  return transfer;
}

double HostTokenBytes(const SplitInputs& in, bool stores_x) {
  const double beta = in.beta_bytes, chi = in.chi_memory_bytes();
  if (!stores_x) return beta;
  switch (in.mode) {
    case SplitMode::kTransfer:
      return beta;
    case SplitMode::kRebuild:
      return chi;
    case SplitMode::kFixed:
      return in.fixed_fraction * chi + (1 - in.fixed_fraction) * beta;
    case SplitMode::kAuto:
    case SplitMode::kSerial:
      break;
  }
  return std::min(beta, chi);
}

}  // namespace spillway::scheduler
