// SplitPlan: how one step's cached tokens reach attention. One solution of the linear program for one batch
// shape; what the executors obey and what StepStats is compared with.
//
// A value; made by the planner (scheduler room), read by the executors.
#ifndef SPILLWAY_ENGINE_EXEC_SPLIT_PLAN_H_
#define SPILLWAY_ENGINE_EXEC_SPLIT_PLAN_H_

#include <array>
#include <cstdint>
#include <optional>

#include "engine/kv/geometry.h"

namespace spillway::exec {

// The six concurrent activities of a step.
enum class Lane : uint8_t { kWeightLoad, kXLoad, kKvLoad, kCompute, kKvStore, kXStore };
constexpr int kLanes = 6;

// What can bind a step: the rows of the linear program that cost time.
enum class Resource : uint8_t { kLinkIn, kLinkOut, kLinkBoth, kCompute, kHostAttention, kHostMemory };
constexpr int kResources = 6;

enum class Schedule : uint8_t { kRow, kColumn };
enum class SplitMode : uint8_t { kAuto, kSerial, kTransfer, kRebuild, kFixed };
enum class Phase : uint8_t { kDecode, kPrefill };

// Cached tokens of a step by class, per layer. Distinct: a block that several sequences share counts once.
// For models whose layers are alike alone: where some have a sliding window, one count cannot stand for all,
// and this becomes one for each group of layers.
struct TokenClasses {
  int64_t resident_kv_tokens = 0;
  int64_t resident_x_tokens = 0;     // X on the device, K and V rebuilt from it
  int64_t carried_kv_tokens = 0;     // k
  int64_t carried_x_tokens = 0;      // x
  int64_t host_attended_tokens = 0;  // h

  int64_t total_tokens() const {
    return resident_kv_tokens + resident_x_tokens + carried_kv_tokens + carried_x_tokens +
           host_attended_tokens;
  }
  TokenClasses& operator+=(const TokenClasses& other) {
    resident_kv_tokens += other.resident_kv_tokens;
    resident_x_tokens += other.resident_x_tokens;
    carried_kv_tokens += other.carried_kv_tokens;
    carried_x_tokens += other.carried_x_tokens;
    host_attended_tokens += other.host_attended_tokens;
    return *this;
  }
};

// What a plan is solved for; the planner buckets these and memoises plans by bucket.
struct BatchShape {
  Phase phase = Phase::kDecode;
  int32_t sequences = 0;
  int32_t new_tokens = 0;  // rows computed
  int32_t head_rows = 0;   // of these, whose logits are: none of a prompt's earlier pieces
  // (query row, key) pairs that attention reads, per layer: causal, the new rows' own keys among them.
  int64_t reads_tokens = 0;
  int64_t resident_kv_tokens = 0;  // distinct cached tokens by residency and stored form
  int64_t resident_x_tokens = 0;
  int64_t host_kv_tokens = 0;  // stored as KV only
  int64_t host_x_tokens = 0;   // stored as X only
  int64_t host_both_tokens = 0;
  int64_t weight_load_bytes = 0;  // W: 0 when resident; of a column's item its share

  int64_t& HostTokens(kv::Form form) {
    return form == kv::Form::kKv ? host_kv_tokens : form == kv::Form::kX ? host_x_tokens : host_both_tokens;
  }
  bool operator==(const BatchShape&) const = default;
};

// What should be resident on the device, as shares of the cached tokens that work reads.
struct ResidencyTargets {
  double kv = 1;  // as K and V
  double x = 0;   // as X
  // The distinct cached tokens that all decoding sequences read, in however many batches they take turns. 0:
  // not known, what the work items read that run or ran lately.
  int64_t decode_load_tokens = 0;
};

struct SplitPlan {
  BatchShape shape;
  SplitMode mode = SplitMode::kAuto;
  Schedule schedule = Schedule::kRow;
  TokenClasses tokens;
  // None: what the last plan that had one said.
  std::optional<ResidencyTargets> residency;

  // Predicted seconds of the step by resource, from the profile alone, and their maximum (pipelined) or the
  // serial form's sum. 0 where no profile exists yet. An item of a column: predicted_s is of its own work,
  // with its share of the weights that all load together; the step's seconds are those of the pass of all
  // items, as it ends when they do.
  std::array<double, kResources> predicted_s{};
  double predicted_step_s = 0;
  double corrected_step_s = 0;  // the same with feedback
  Resource binding = Resource::kCompute;
  uint64_t solve_id = 0;  // 0: not from a solve (everything resident leaves nothing to choose)
};

// The plan of a machine where nothing has to be carried: all cached tokens resident as KV.
inline SplitPlan AllResidentPlan(const BatchShape& shape) {
  SplitPlan plan;
  plan.shape = shape;
  plan.tokens.resident_kv_tokens = shape.resident_kv_tokens + shape.host_kv_tokens + shape.host_both_tokens;
  return plan;
}

// Every token that is not resident carried, as KV where it is stored as KV: what needs neither a profile nor
// a solve, and is right for every shape.
inline SplitPlan TransferPlan(const BatchShape& shape) {
  SplitPlan plan;
  plan.shape = shape;
  plan.mode = SplitMode::kTransfer;
  plan.tokens.resident_kv_tokens = shape.resident_kv_tokens;
  plan.tokens.resident_x_tokens = shape.resident_x_tokens;
  plan.tokens.carried_kv_tokens = shape.host_kv_tokens + shape.host_both_tokens;
  plan.tokens.carried_x_tokens = shape.host_x_tokens;
  return plan;
}

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_SPLIT_PLAN_H_
