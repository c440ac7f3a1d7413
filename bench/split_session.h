// SplitSession: a model behind an emulated link, for measuring decode steps by how their cached tokens reach
// attention.
#ifndef SPILLWAY_BENCH_SPLIT_SESSION_H_
#define SPILLWAY_BENCH_SPLIT_SESSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/device.h"
#include "engine/exec/link_executor.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"

namespace spillway::bench {

// A model of random weights, by its shape alone.
struct SplitShape {
  std::string name;
  std::string config_json;  // as Hugging Face's config.json
};
SplitShape MultiHeadShape();  // OPT-like, d = 1024, 16 heads of 64
SplitShape GroupedShape();    // Llama-like, d = 1024, 16 query heads on 4 KV heads

struct SplitOptions {
  SplitShape shape;
  double link_bytes_per_s = 100e6;
  int32_t threads = 0;
  int32_t max_sequences = 8;
  int64_t max_cached_tokens = 8192;  // of all sequences
  int64_t resident_tokens = 0;       // at most so many stay on the device
};

// What a decode step is made of: `sequences` of `context` cached tokens each, of which the first `shared` are
// the same blocks.
struct SplitBatch {
  int32_t sequences = 8;
  int32_t context = 512;
  int32_t shared = 0;
};

// Thread-compatible. The pool holds random values: no operation's time depends on them.
class SplitSession {
 public:
  static absl::StatusOr<std::unique_ptr<SplitSession>> Create(const SplitOptions& options);
  ~SplitSession();

  // One decode step, of whose carried tokens `x_share` are carried as X; pipelined, or in the serial form.
  // Tokens that may be resident are, after the first step of a batch.
  absl::StatusOr<exec::StepStats> Step(const SplitBatch& batch, double x_share,
                                       exec::SplitMode mode = exec::SplitMode::kAuto);
  // Makes `n_tokens` of the batch's cached tokens resident, by computing them again; the rest is carried.
  absl::Status MakeResident(const SplitBatch& batch, int64_t n_tokens);

  const kv::Geometry& geometry() const { return pool_->geometry(); }
  kv::Form form() const { return pool_->form(); }
  const model::Model& model() const { return model_; }
  int64_t ring_bytes() const { return executor_->ring_bytes(); }
  int64_t device_bytes() const { return device_->allocated_bytes(); }

 private:
  SplitSession() = default;

  void FillPool();
  // The block table of one sequence of the batch, with room for a token more.
  std::vector<kv::BlockId> BlocksOf(const SplitBatch& batch, int32_t sequence) const;

  SplitOptions options_;
  std::unique_ptr<device::Device> device_;
  model::Model model_;
  std::unique_ptr<kv::HostPool> pool_;
  std::unique_ptr<kv::BlockStore> blocks_;
  std::unique_ptr<exec::LinkExecutor> executor_;
  std::unique_ptr<exec::WorkItem> item_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_SESSION_H_
