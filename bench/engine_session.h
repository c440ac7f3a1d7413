// EngineSession: a model on the CPU device with its pool and executor, for measuring steps without a server.
#ifndef SPILLWAY_BENCH_ENGINE_SESSION_H_
#define SPILLWAY_BENCH_ENGINE_SESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/exec/row_executor.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"

namespace spillway::bench {

struct EngineOptions {
  std::string model_path;
  int32_t threads = 0;  // 0: the device's default
  int32_t chunk_rows = 256;
  int32_t max_batch = 32;
  int32_t max_tokens = 4096;  // cached and new tokens of one sequence, and rows of a prefill
};

struct StepTime {
  double wall_s = 0;
  double cpu_s = 0;  // of the whole process
};

// Thread-compatible. The cache is not filled before decoding: it holds zeros, and no operation's time depends
// on the values.
class EngineSession {
 public:
  static absl::StatusOr<std::unique_ptr<EngineSession>> Create(const EngineOptions& options);

  // `steps` decode passes of `batch` sequences that hold `context` tokens each before the first; the time of
  // each. REQUIRES: batch <= max_batch, context + steps <= max_tokens.
  absl::StatusOr<std::vector<StepTime>> Decode(int32_t batch, int32_t context, int32_t steps);
  // One prompt of `tokens` tokens from nothing to its first token.
  absl::StatusOr<StepTime> Prefill(int32_t tokens);

  const model::Model& model() const { return model_; }
  const device::Device& device() const { return *device_; }

 private:
  EngineSession() = default;

  absl::StatusOr<StepTime> RunItem(exec::WorkItem& item, exec::Phase phase,
                                   absl::Span<const exec::Segment> segments);
  // The block table of sequence `sequence`; its blocks are its own.
  absl::Span<const kv::BlockId> BlocksOf(int32_t sequence, int32_t tokens) const;

  EngineOptions options_;
  std::unique_ptr<device::Device> device_;
  model::Model model_;
  std::unique_ptr<kv::HostPool> pool_;
  std::unique_ptr<kv::BlockStore> store_;
  std::unique_ptr<exec::RowExecutor> executor_;
  std::unique_ptr<exec::WorkItem> decode_;
  std::unique_ptr<exec::WorkItem> prefill_;
  std::vector<kv::BlockId> blocks_;  // [max_batch][blocks of max_tokens]
};

// Multiply-adds times two of one row through every matrix of every layer, and through the head.
int64_t LayersFlopPerRow(const model::Model& model);
int64_t HeadFlopPerRow(const model::Model& model);
// Of a prompt's own attention, causal: scores and weighted values of every pair of a token and one before it.
int64_t PromptAttentionFlop(const model::ModelConfig& config, int64_t tokens);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_ENGINE_SESSION_H_
