#include "scheduler/planner.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "base/check.h"
#include "base/clock.h"
#include "scheduler/shape_buckets.h"

namespace spillway::scheduler {
namespace {

using exec::BatchShape;
using exec::Lane;
using exec::Resource;
using exec::SplitMode;

// A failed solve is tried again after so many steps that went without.
constexpr int32_t kUsesBeforeRetry = 64;
constexpr double kShareTolerance = 1e-4;
// What a link's rate of one step counts for in the recent mean.
constexpr double kRateWeight = 0.1;

SplitPolicy PolicyOf(const PlannerOptions& options) {
  SplitPolicy policy;
  policy.mode = options.modes.split;
  policy.fixed_fraction = options.modes.split_fraction;
  policy.store_x = options.store_x;
  return policy;
}

int64_t Movable(const BatchShape& shape) {
  return shape.host_kv_tokens + shape.host_x_tokens + shape.host_both_tokens;
}

int64_t CachedTokens(const BatchShape& shape) {
  return Movable(shape) + shape.resident_kv_tokens + shape.resident_x_tokens;
}

GroupSplit SplitOf(const exec::TokenClasses& tokens) {
  GroupSplit split;
  split.carried_kv_tokens = static_cast<double>(tokens.carried_kv_tokens);
  split.carried_x_tokens = static_cast<double>(tokens.carried_x_tokens);
  split.host_attended_tokens = static_cast<double>(tokens.host_attended_tokens);
  split.resident_kv_tokens = static_cast<double>(tokens.resident_kv_tokens);
  split.resident_x_tokens = static_cast<double>(tokens.resident_x_tokens);
  return split;
}

// The baselines leave nothing to solve.
SplitShares SharesOfBaseline(const BatchShape& shape, const PlanModes& modes) {
  SplitShares shares;
  if (modes.split == SplitMode::kRebuild) shares.x_of_both = 1;
  if (modes.split == SplitMode::kFixed && shape.host_both_tokens > 0) {
    const double x = modes.split_fraction * static_cast<double>(Movable(shape));
    shares.x_of_both = std::clamp(
        (x - static_cast<double>(shape.host_x_tokens)) / static_cast<double>(shape.host_both_tokens), 0.0,
        1.0);
  }
  return shares;
}

void AddRate(int64_t bytes, double seconds, double* mean) {
  if (bytes <= 0 || !(seconds >= ResourceFeedback::kLeastSeconds)) return;
  const double rate = static_cast<double>(bytes) / seconds;
  *mean = *mean == 0 ? rate : *mean + kRateWeight * (rate - *mean);
}

}  // namespace

exec::TokenClasses ScaleShares(const BatchShape& shape, const SplitShares& shares) {
  const auto part = [](double share, int64_t tokens) {
    return std::clamp<int64_t>(std::llround(share * static_cast<double>(tokens)), 0, tokens);
  };
  exec::TokenClasses tokens;
  tokens.resident_kv_tokens = shape.resident_kv_tokens;
  tokens.resident_x_tokens = shape.resident_x_tokens;
  const int64_t both_as_x = part(shares.x_of_both, shape.host_both_tokens);
  tokens.carried_x_tokens = shape.host_x_tokens + both_as_x;
  const int64_t as_kv = shape.host_kv_tokens + shape.host_both_tokens - both_as_x;
  tokens.host_attended_tokens = part(shares.h_of_kv, as_kv);
  tokens.carried_kv_tokens = as_kv - tokens.host_attended_tokens;
  return tokens;
}

Planner::Planner(PlanSolver& solver, const PlannerOptions& options)
    : solver_(solver),
      profile_(solver.profile()),
      options_(options),
      residency_bytes_(options.residency_bytes),
      policy_(PolicyOf(options)),
      memo_(options.max_plans) {
  Predict({}, {}, {});  // makes room
}

SplitShares Planner::SharesFor(const BatchShape& shape, uint64_t* solve_id) {
  const SplitMode mode = options_.modes.split;
  if (mode != SplitMode::kAuto && mode != SplitMode::kSerial) {
    return SharesOfBaseline(shape, options_.modes);
  }
  // Only what is stored in both forms leaves a choice, as long as no executor attends on the host.
  if (shape.host_both_tokens == 0) return {};
  const BatchShape bucket = BucketOf(shape);
  PlanMemo::Entry* entry = memo_.Find(bucket);
  if (entry != nullptr) {
    ++counts_.memo_hits;
    const bool stale =
        entry->factors_version != feedback_.version() || (entry->failed && ++entry->uses >= kUsesBeforeRetry);
    if (stale && !Asked(bucket) && Ask(bucket)) entry->uses = 0;
  } else if (!Asked(bucket) && Ask(bucket)) {
    TakeAnswers(options_.longest_wait, &bucket);
    entry = memo_.Find(bucket);
  }
  if (entry == nullptr) {
    ++counts_.timeouts;
    return last_good_[static_cast<size_t>(shape.phase)];
  }
  *solve_id = entry->solve_id;
  return entry->shares;
}

exec::SplitPlan Planner::PlanFor(const BatchShape& shape) {
  SPILLWAY_DCHECK(Movable(shape) >= 0 && CachedTokens(shape) >= 0);
  TakeAnswers(std::chrono::nanoseconds(0), nullptr);
  exec::SplitPlan plan;
  plan.shape = shape;
  plan.mode = options_.modes.split;
  plan.tokens = ScaleShares(shape, SharesFor(shape, &plan.solve_id));
  const bool decodes = shape.phase == exec::Phase::kDecode;
  const BatchShape load = load_.sequences > 0 || !decodes ? load_ : LoadOf(shape);
  if (targets_.version > 0) {
    plan.residency = {targets_.resident_kv, targets_.resident_x, load_.host_both_tokens};
  }
  const StepTimes times = Predict(shape, plan.tokens, {});
  plan.predicted_s = times.resource_s;
  plan.predicted_step_s = times.step_s;
  plan.binding = times.binding;
  plan.corrected_step_s =
      options_.feedback ? Predict(shape, plan.tokens, feedback_.factors()).step_s : times.step_s;
  if (decodes) AskForTargets(load);
  Publish();
  return plan;
}

bool Planner::Asked(const BatchShape& bucket) const {
  return std::find(asked_.begin(), asked_.begin() + static_cast<std::ptrdiff_t>(n_asked_), bucket) !=
         asked_.begin() + static_cast<std::ptrdiff_t>(n_asked_);
}

bool Planner::Ask(const BatchShape& bucket) {
  SolveRequest request;
  request.shape = bucket;
  request.policy = policy_;
  request.factors = feedback_.solved_factors();
  request.factors_version = feedback_.version();
  if (!solver_.Ask(request)) return false;
  asked_[n_asked_++] = bucket;
  return true;
}

void Planner::SetLoad(int32_t sequences, int64_t distinct_cached_tokens, int64_t reads_tokens,
                      int64_t weight_load_bytes) {
  load_.sequences = load_.new_tokens = load_.head_rows = sequences;
  load_.host_both_tokens = distinct_cached_tokens;
  load_.reads_tokens = reads_tokens;
  load_.weight_load_bytes = weight_load_bytes;
}

BatchShape Planner::LoadOf(const BatchShape& shape) const {
  BatchShape load;
  load.sequences = load.new_tokens = load.head_rows = shape.sequences;
  load.reads_tokens = shape.reads_tokens;
  load.host_both_tokens = CachedTokens(shape);
  load.weight_load_bytes = shape.weight_load_bytes;
  return load;
}

void Planner::AskForTargets(const BatchShape& load) {
  if (load.host_both_tokens == 0) return;
  const BatchShape bucket = BucketOf(load);
  if (bucket == target_load_ && feedback_.version() == target_factors_version_) return;
  SolveRequest request;
  request.shape = load;
  request.policy = policy_;
  request.factors = feedback_.solved_factors();
  PlacementBudget budget;
  budget.device_bytes = residency_bytes_;
  budget.stores_x = policy_.store_x;
  // What is cached has found its place in the pool, whatever it counts as.
  FillSplitInputs(profile_, load, policy_, {}, &inputs_);
  budget.host_bytes =
      std::max(options_.pool_bytes, static_cast<double>(load.host_both_tokens) * profile_.model.n_layers *
                                        HostTokenBytes(inputs_, policy_.store_x));
  if (options_.modes.residency == ResidencyMode::kOff) budget.device_bytes = 0;
  if (options_.modes.residency == ResidencyMode::kFixed) {
    const double all_bytes =
        static_cast<double>(load.host_both_tokens) * profile_.model.n_layers * profile_.model.beta_bytes();
    budget.resident_fraction = std::min(options_.modes.residency_fraction, residency_bytes_ / all_bytes);
  }
  request.placement = budget;
  if (!solver_.Ask(request)) return;
  target_load_ = bucket;
  target_factors_version_ = feedback_.version();
}

void Planner::TakeAnswers(std::chrono::nanoseconds wait, const BatchShape* wanted) {
  if (solver_.open_questions() == 0) return;
  const MonotonicNs until = Clock::Real().NowNs() + wait.count();
  SolveAnswer answer;
  while (solver_.TakeAnswer(&answer, wait)) {
    Accept(answer);
    // The answer that was waited for; more may be there already.
    if (wanted != nullptr && !Asked(*wanted)) wait = std::chrono::nanoseconds(0);
    if (wait.count() > 0)
      wait = std::chrono::nanoseconds(std::max<int64_t>(0, until - Clock::Real().NowNs()));
  }
}

void Planner::Accept(const SolveAnswer& answer) {
  counts_.solve_s += ToSeconds(answer.solve_ns);
  if (answer.request.placement.has_value()) return AcceptTargets(answer);
  const BatchShape& bucket = answer.request.shape;
  const auto asked =
      std::find(asked_.begin(), asked_.begin() + static_cast<std::ptrdiff_t>(n_asked_), bucket);
  SPILLWAY_CHECK(asked != asked_.begin() + static_cast<std::ptrdiff_t>(n_asked_));
  *asked = asked_[--n_asked_];

  SplitShares& last_good = last_good_[static_cast<size_t>(bucket.phase)];
  SplitShares shares;
  const bool ok = SharesOf(answer, &shares);
  const bool known = memo_.Find(bucket) != nullptr;
  PlanMemo::Entry& entry = memo_.Put(bucket);
  entry.factors_version = answer.request.factors_version;
  entry.failed = !ok;
  entry.uses = 0;
  if (ok) {
    ++counts_.solves;
    entry.shares = last_good = shares;
    entry.solve_id = next_solve_id_++;
  } else {
    ++counts_.failures;
    if (!known) entry.shares = last_good;
  }
}

bool Planner::SharesOf(const SolveAnswer& answer, SplitShares* shares) {
  if (!answer.ok) return false;
  const BatchShape& shape = answer.request.shape;
  const double both = static_cast<double>(shape.host_both_tokens);
  const double x_of_both = (answer.split.carried_x_tokens - static_cast<double>(shape.host_x_tokens)) / both;
  const double as_kv = answer.split.carried_kv_tokens + answer.split.host_attended_tokens;
  const double h_of_kv = as_kv > 0 ? answer.split.host_attended_tokens / as_kv : 0;
  const auto is_share = [](double share) {
    return share >= -kShareTolerance && share <= 1 + kShareTolerance;  // false for a NaN
  };
  if (!is_share(x_of_both) || !is_share(h_of_kv)) return false;
  // No executor attends on the host, and the problem said so.
  if (h_of_kv > kShareTolerance) return false;
  const double movable = static_cast<double>(Movable(shape));
  if (std::abs(answer.split.carried_x_tokens + as_kv - movable) > kShareTolerance * movable) return false;
  shares->x_of_both = std::clamp(x_of_both, 0.0, 1.0);
  shares->h_of_kv = std::clamp(h_of_kv, 0.0, 1.0);
  if (policy_.mode != SplitMode::kAuto) return true;
  // No optimum is slower than what needs no solver.
  const double solved_s = Predict(shape, ScaleShares(shape, *shares), answer.request.factors).step_s;
  const double plain_s = Predict(shape, ScaleShares(shape, {}), answer.request.factors).step_s;
  return solved_s <= plain_s * (1 + kShareTolerance);
}

void Planner::AcceptTargets(const SolveAnswer& answer) {
  const double all = static_cast<double>(answer.request.shape.host_both_tokens);
  const auto share = [all](double tokens) { return std::clamp(tokens / all, 0.0, 1.0); };
  const GroupSplit& s = answer.split;
  const bool ok = answer.ok && std::isfinite(s.carried_x_tokens + s.resident_kv_tokens + s.resident_x_tokens +
                                             s.host_kv_tokens + s.host_x_tokens + s.host_both_tokens);
  if (!ok) {
    ++counts_.failures;
    return;
  }
  ++counts_.solves;
  ++targets_.version;
  targets_.resident_kv = share(s.resident_kv_tokens);
  targets_.resident_x = share(s.resident_x_tokens);
  targets_.stored_kv = share(s.host_kv_tokens);
  targets_.stored_x = share(s.host_x_tokens);
  targets_.stored_both = share(s.host_both_tokens);
  // Whatever is resident: what is not there must be there as X to be rebuilt.
  const bool rebuilds = options_.modes.split == SplitMode::kRebuild;
  const double carried = s.carried_x_tokens + s.carried_kv_tokens;
  targets_.x_share = rebuilds               ? 1
                     : carried > 1e-3 * all ? std::clamp(s.carried_x_tokens / carried, 0.0, 1.0)
                                            : share(s.resident_x_tokens);
  targets_.step_s = answer.step_s;
}

StepTimes Planner::Predict(const BatchShape& shape, const exec::TokenClasses& tokens,
                           const ResourceFactors& factors) {
  FillSplitInputs(profile_, shape, policy_, factors, &inputs_);
  const GroupSplit split = SplitOf(tokens);
  return EvaluateTimes(inputs_, absl::MakeConstSpan(&split, 1));
}

PassTimes Planner::PredictPass(absl::Span<const exec::SplitPlan* const> plans) {
  const auto step_s = [&](const ResourceFactors& factors) {
    StepTimes sum;
    double tail_s = 0, serial_s = 0;
    for (const exec::SplitPlan* plan : plans) {
      const StepTimes times = Predict(plan->shape, plan->tokens, factors);
      for (size_t i = 0; i < sum.resource_s.size(); ++i) sum.resource_s[i] += times.resource_s[i];
      serial_s += times.step_s;
      tail_s = inputs_.link_tail_s;  // the last item's
    }
    if (policy_.mode == SplitMode::kSerial) return serial_s;
    sum.resource_s[static_cast<size_t>(Resource::kLinkIn)] += tail_s;
    return *std::max_element(sum.resource_s.begin(), sum.resource_s.end());
  };
  const double predicted_s = step_s({});
  return {predicted_s, options_.feedback ? step_s(feedback_.factors()) : predicted_s};
}

void Planner::OnStep(const exec::SplitPlan& plan, const exec::StepStats& stats, ScheduleReason reason) {
  const auto bytes = [&stats](std::initializer_list<Lane> lanes) {
    int64_t sum = 0;
    for (const Lane lane : lanes) sum += stats.lanes[static_cast<size_t>(lane)].bytes;
    return sum;
  };
  const int64_t in_bytes = bytes({Lane::kKvLoad, Lane::kXLoad, Lane::kWeightLoad});
  const int64_t out_bytes = bytes({Lane::kKvStore, Lane::kXStore});
  if (options_.feedback) {
    // Blocks are whole, and stored when they are full: what the step did is not what was planned for it, so
    // the profile is asked about what it did.
    const exec::TokenClasses& done = stats.tokens.total_tokens() > 0 ? stats.tokens : plan.tokens;
    StepTimes expected = Predict(plan.shape, done, {});
    expected.resource_s[static_cast<size_t>(Resource::kLinkIn)] =
        static_cast<double>(in_bytes) / profile_.copy_in.bytes_per_s;
    expected.resource_s[static_cast<size_t>(Resource::kLinkOut)] =
        static_cast<double>(out_bytes) / profile_.copy_out.bytes_per_s;
    feedback_.OnStep(expected, stats);
  }
  AddRate(in_bytes, LinkInSeconds(stats), &counts_.link_in_bytes_per_s);
  AddRate(out_bytes, LinkOutSeconds(stats), &counts_.link_out_bytes_per_s);
  ++counts_.scheduled[static_cast<size_t>(plan.schedule)][static_cast<size_t>(reason)];
  Publish();
}

void Planner::Publish() {
  counts_.plans = memo_.size();
  counts_.factors = feedback_.factors();
  counts_.targets = targets_;
  counts_.schedule = schedule_;
  counts_.link_in_share = counts_.link_in_bytes_per_s / profile_.copy_in.bytes_per_s;
  counts_.link_out_share = counts_.link_out_bytes_per_s / profile_.copy_out.bytes_per_s;
  MutexLock lock(mutex_);
  published_ = counts_;
}

PlannerSnapshot Planner::Snapshot() const {
  MutexLock lock(mutex_);
  return published_;
}

}  // namespace spillway::scheduler
