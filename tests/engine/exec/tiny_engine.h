// A tiny model with a pool, a store and an executor: what the tests of this room run. On the CPU device,
// whose row executor reads the pool in place, or on one behind an emulated link.
#ifndef SPILLWAY_TESTS_ENGINE_EXEC_TINY_ENGINE_H_
#define SPILLWAY_TESTS_ENGINE_EXEC_TINY_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "engine/device/cpu/stream_engine.h"
#include "engine/device/device.h"
#include "engine/exec/link_executor.h"
#include "engine/exec/row_executor.h"
#include "engine/exec/timeline.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"
#include "tests/fakes/host_order_device.h"
#include "tests/fakes/timed_device.h"

namespace spillway::exec {

// A sequence of known tokens, of which the first `n_cached` went through the model.
struct Sequence {
  std::vector<text::TokenId> tokens;
  std::vector<kv::BlockId> blocks;
  int32_t n_cached = 0;

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
};

// A device behind an emulated link, and its executor.
struct TinyLink {
  device::StreamEngineOptions stream{.link_bytes_per_s = 2e9};
  // Of blocks: all of them, as long as `policy` does not say otherwise. The pool is sized for it.
  kv::Form form = kv::Form::kKv;
  std::optional<kv::FormPolicy> policy;
  int64_t cache_blocks = 64;  // open and resident ones, as if all were open
  int64_t resident_blocks_max = 64;
  int32_t ring_chunks = 3;
  int32_t chunk_blocks = 2;  // blocks that a chunk of the ring holds as K and V
  bool stream_weights = false;
  device::WeightMode weight_mode = device::WeightMode::kExpanded;
  bool check_blocks = false;
  double x_share = 0;  // of the carried tokens, carried as X
  SplitMode mode = SplitMode::kAuto;
  ResidencyTargets residency;
  bool check_order = false;  // whether copies from and to the pool wait for one another
  // Instead of an emulated link a device of simulated time, which computes nothing.
  std::optional<fakes::TimedRates> timed;
};

struct TinyEngineOptions {
  device::DType dtype = device::DType::kF32;
  int32_t chunk_rows = 256;
  int32_t head_rows = 64;
  int32_t block_tokens = 16;
  int64_t n_blocks = 256;
  int32_t threads = 2;
  int32_t max_item_rows = 256;  // of the item that Logits runs in
  int32_t max_item_segments = 256;
  const Clock* clock = &Clock::Real();
  Timeline* timeline = nullptr;
  std::optional<TinyLink> link;
};

class TinyEngine {
 public:
  // Stops the test binary when the model cannot be loaded: nothing can be tested then.
  TinyEngine(const std::string& model_path, const TinyEngineOptions& options);

  device::Device& device() { return *device_; }
  const model::Model& model() const { return model_; }
  kv::HostPool& pool() { return *pool_; }
  kv::BlockStore& store() { return *store_; }
  Executor& executor() { return *executor_; }
  LinkExecutor& link() { return static_cast<LinkExecutor&>(*executor_); }  // REQUIRES: options.link

  // REQUIRES: options.link->check_order.
  const fakes::HostOrderDevice& order() const { return static_cast<const fakes::HostOrderDevice&>(*device_); }

  // An item with room for `max_rows` rows, all of whose logits may be kept.
  std::unique_ptr<WorkItem> NewItem(int32_t max_rows = 256);

  // Gives `sequence` blocks for all its tokens.
  void Cover(Sequence& sequence);
  void Release(Sequence& sequence);
  // The sequence's next `n_tokens` tokens; counts them as cached.
  Segment Next(Sequence& sequence, int32_t n_tokens, Output output = Output::kAllLogits);

  // What Run begins steps with: of what is carried, this share as X.
  void CarryAsX(double share);
  void SetMode(SplitMode mode) { plan_.mode = mode; }
  void SetResidency(const ResidencyTargets& targets) { plan_.residency = targets; }
  const SplitPlan& plan() const { return plan_; }
  // Begin to Finish.
  StepResult Run(WorkItem& item, absl::Span<const Segment> segments, Phase phase = Phase::kPrefill);
  // Logits of the sequence's next `n_tokens` tokens, run alone: [n_tokens][vocab].
  std::vector<std::vector<float>> Logits(Sequence& sequence, int32_t n_tokens);
  // Logits of every token of `tokens`, in one item of an own sequence.
  std::vector<std::vector<float>> LogitsOfAll(const std::vector<text::TokenId>& tokens);
  // The logits that a finished item kept of a segment.
  std::vector<std::vector<float>> KeptLogits(const WorkItem& item, int32_t segment, int32_t n_rows) const;

 private:
  std::unique_ptr<device::Device> target_;  // of a fake one
  std::unique_ptr<device::Device> device_;
  model::Model model_;
  std::unique_ptr<kv::HostPool> pool_;
  std::unique_ptr<kv::BlockStore> store_;
  SplitPlan plan_;
  int32_t max_item_segments_ = 0;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<WorkItem> item_;  // of Logits and LogitsOfAll
};

// Tokens from `seed`, below `vocab_size`.
std::vector<text::TokenId> RandomTokens(uint32_t seed, int32_t n_tokens, int32_t vocab_size);

device::SampleRow GreedyRow(int32_t position);

struct LogitDifference {
  double largest = 0;  // infinite where shapes differ or a value is NaN
  double rms = 0;
};
LogitDifference Difference(const std::vector<std::vector<float>>& a,
                           const std::vector<std::vector<float>>& b);
double MaxDifference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b);

// How far logits of about +-15 may differ where the same sums are cut another way. (Products whose rows do
// not depend on their number give no difference at all.)
double LogitTolerance(device::DType dtype);

}  // namespace spillway::exec

#endif  // SPILLWAY_TESTS_ENGINE_EXEC_TINY_ENGINE_H_
