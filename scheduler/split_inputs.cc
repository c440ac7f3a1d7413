// The split's problem without its solver: what inputs are allowed, and the rows evaluated.
#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "scheduler/split_problem.h"

namespace spillway::scheduler {
namespace {

using exec::Resource;
using exec::SplitMode;

constexpr double kTokensMax = 1e12;
constexpr double kSecondsMax = 1e6;
constexpr double kBytesMax = 1e18;
constexpr double kRateMin = 1;
constexpr int kGroupsMax = 16;
constexpr int kPiecesMax = 8;

constexpr std::array<const char*, exec::kResources> kResourceNames = {
    "link in", "link out", "link both ways", "compute", "host attention", "host memory"};

class Validator {
 public:
  void InRange(double value, double low, double high, absl::string_view field) {
    if (!(value >= low && value <= high)) Fail(field, value, low, high);
  }
  absl::Status status() && { return std::move(status_); }

 private:
  void Fail(absl::string_view field, double value, double low, double high) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrFormat("%s is %g; it must lie in [%g, %g]", field, value, low, high));
  }
  absl::Status status_;
};

void ValidateRates(const SplitRates& rates, Validator& v) {
  v.InRange(rates.link_in_bytes_per_s, kRateMin, kBytesMax, "link_in_bytes_per_s");
  v.InRange(rates.link_out_bytes_per_s, kRateMin, kBytesMax, "link_out_bytes_per_s");
  v.InRange(rates.link_both_bytes_per_s, kRateMin, kBytesMax, "link_both_bytes_per_s");
  v.InRange(rates.host_memory_bytes_per_s, kRateMin, kBytesMax, "host_memory_bytes_per_s");
  v.InRange(rates.host_attention_bytes_per_s, 0, kBytesMax, "host_attention_bytes_per_s");
  v.InRange(rates.host_attention_fixed_s, 0, kSecondsMax, "host_attention_fixed_s");
  v.InRange(rates.compute_slowdown_by_link, 1, 1000, "compute_slowdown_by_link");
  v.InRange(static_cast<double>(rates.rebuild.pieces.size()), 1, kPiecesMax, "the number of rebuild pieces");
  for (const ConvexCost::Piece& piece : rates.rebuild.pieces) {
    v.InRange(piece.fixed_s, -kSecondsMax, kSecondsMax, "rebuild.fixed_s");
    v.InRange(piece.per_token_s, 0, kSecondsMax, "rebuild.per_token_s");
  }
}

double SerialStep(const SplitInputs& in, absl::Span<const GroupSplit> groups) {
  const double rate = in.rates.link_in_bytes_per_s;
  double seconds = in.head_s;
  for (size_t i = 0; i < groups.size(); ++i) {
    const LayerGroup& g = in.groups[i];
    const GroupSplit& s = groups[i];
    const double first = std::max(s.carried_x_tokens * in.chi_bytes / rate, g.linear_s + g.attention_s);
    const double rebuild = std::max(0.0, in.rates.rebuild.At(s.carried_x_tokens + s.resident_x_tokens));
    const double second = std::max(rebuild, (s.carried_kv_tokens * in.beta_bytes + g.weight_bytes) / rate);
    double host = 0;
    if (in.rates.host_attention_bytes_per_s > 0) {
      host = s.host_attended_tokens * in.beta_bytes / in.rates.host_attention_bytes_per_s;
    }
    seconds += g.n_layers * (first + second + host);
  }
  return seconds;
}

}  // namespace

absl::Status ValidateSplitInputs(const SplitInputs& in) {
  Validator v;
  v.InRange(in.fixed_fraction, 0, 1, "fixed_fraction");
  v.InRange(in.beta_bytes, 1, 1e9, "beta_bytes");
  v.InRange(in.chi_bytes, 1, 1e9, "chi_bytes");
  v.InRange(in.head_s, 0, kSecondsMax, "head_s");
  v.InRange(in.link_tail_s, 0, kSecondsMax, "link_tail_s");
  ValidateRates(in.rates, v);
  v.InRange(static_cast<double>(in.groups.size()), 1, kGroupsMax, "the number of layer groups");
  for (const LayerGroup& g : in.groups) {
    v.InRange(g.n_layers, 1, 1e5, "n_layers");
    v.InRange(g.resident_kv_tokens, 0, kTokensMax, "resident_kv_tokens");
    v.InRange(g.resident_x_tokens, 0, kTokensMax, "resident_x_tokens");
    v.InRange(g.host_kv_tokens, 0, kTokensMax, "host_kv_tokens");
    v.InRange(g.host_x_tokens, 0, kTokensMax, "host_x_tokens");
    v.InRange(g.host_both_tokens, 0, kTokensMax, "host_both_tokens");
    v.InRange(g.linear_s, 0, kSecondsMax, "linear_s");
    v.InRange(g.attention_s, 0, kSecondsMax, "attention_s");
    v.InRange(g.weight_bytes, 0, kBytesMax, "weight_bytes");
    v.InRange(g.store_bytes, 0, kBytesMax, "store_bytes");
  }
  if (in.placement.has_value()) {
    v.InRange(in.placement->device_bytes, 0, kBytesMax, "device_bytes");
    v.InRange(in.placement->host_bytes, 0, kBytesMax, "host_bytes");
    v.InRange(in.placement->device_fixed_bytes, 0, kBytesMax, "device_fixed_bytes");
    v.InRange(in.placement->host_fixed_bytes, 0, kBytesMax, "host_fixed_bytes");
    v.InRange(in.placement->resident_fraction.value_or(0), 0, 1, "resident_fraction");
  }
  return std::move(v).status();
}

absl::string_view NameOf(exec::Resource resource) { return kResourceNames[static_cast<size_t>(resource)]; }

double ConvexCost::At(double tokens) const {
  if (tokens <= 0) return 0;
  double seconds = -std::numeric_limits<double>::infinity();
  for (const Piece& piece : pieces) seconds = std::max(seconds, piece.fixed_s + piece.per_token_s * tokens);
  return seconds;
}

StepTimes EvaluateTimes(const SplitInputs& in, absl::Span<const GroupSplit> groups) {
  SPILLWAY_CHECK(groups.size() == in.groups.size());
  const SplitRates& r = in.rates;
  double in_bytes = 0, out_bytes = 0, dram_bytes = 0, compute_s = in.head_s, host_s = 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    const LayerGroup& g = in.groups[i];
    const GroupSplit& s = groups[i];
    const double carried =
        s.carried_kv_tokens * in.beta_bytes + s.carried_x_tokens * in.chi_bytes + g.weight_bytes;
    const double attended = s.host_attended_tokens * in.beta_bytes;
    in_bytes += g.n_layers * carried;
    out_bytes += g.n_layers * g.store_bytes;
    dram_bytes += g.n_layers * (carried + attended);
    compute_s += g.n_layers * (g.linear_s + g.attention_s +
                               std::max(0.0, r.rebuild.At(s.carried_x_tokens + s.resident_x_tokens)));
    if (r.host_attention_bytes_per_s > 0) {
      host_s += g.n_layers * (attended / r.host_attention_bytes_per_s + r.host_attention_fixed_s);
    }
  }
  StepTimes times;
  const auto set = [&](Resource resource, double seconds) {
    times.resource_s[static_cast<size_t>(resource)] = seconds;
  };
  const double in_s = in_bytes / r.link_in_bytes_per_s;
  // What is left of compute when the link is done.
  const double alone_s = std::max(0.0, compute_s - in_s);
  compute_s -= alone_s * (1 - 1 / r.compute_slowdown_by_link);
  set(Resource::kLinkIn, in_s);
  set(Resource::kLinkOut, out_bytes / r.link_out_bytes_per_s);
  set(Resource::kLinkBoth, (in_bytes + out_bytes) / r.link_both_bytes_per_s);
  set(Resource::kCompute, compute_s);
  set(Resource::kHostAttention, host_s);
  set(Resource::kHostMemory, dram_bytes / r.host_memory_bytes_per_s);
  std::array<double, exec::kResources> ends_s = times.resource_s;
  if (!in.placement.has_value()) ends_s[static_cast<size_t>(Resource::kLinkIn)] += in.link_tail_s;
  const auto longest = std::max_element(ends_s.begin(), ends_s.end());
  times.binding = static_cast<Resource>(longest - ends_s.begin());
  times.step_s = in.mode == SplitMode::kSerial ? SerialStep(in, groups) : *longest;
  return times;
}

SplitSolution EvaluateSplit(const SplitInputs& in, const std::vector<GroupSplit>& groups) {
  SplitSolution solution;
  static_cast<StepTimes&>(solution) = EvaluateTimes(in, groups);
  solution.groups = groups;
  return solution;
}

}  // namespace spillway::scheduler
