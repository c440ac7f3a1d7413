// GpuSession: steps of a model on a device with memory of its own, through the executor that the daemon runs,
// with a cache that is all on the device or all on the host.
#ifndef SPILLWAY_BENCH_GPU_SESSION_H_
#define SPILLWAY_BENCH_GPU_SESSION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/gpu_shape.h"
#include "engine/device/device.h"
#include "engine/exec/link_executor.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"

namespace spillway::bench {

enum class CachePlace : uint8_t { kDevice, kHost };

// Thread-compatible. Borrows device and model. A cache on the host holds zeros: no operation's time depends
// on the values.
class GpuSession {
 public:
  // ResourceExhausted without memory.
  static absl::StatusOr<std::unique_ptr<GpuSession>> Create(device::Device& device, const model::Model& model,
                                                            const GpuShape& shape, CachePlace place);

  // Computes shape.context tokens of every sequence, which stay on the device. REQUIRES: kDevice; once,
  // before the first Decode.
  absl::Status FillContexts();
  // `steps` decode steps of the first `batch` sequences, one token each, one step behind the other. Internal
  // where a step did not find its cache where it should lie.
  absl::StatusOr<std::vector<exec::StepStats>> Decode(int32_t batch, int32_t steps);
  // A prompt of shape.prompt tokens from nothing to its first token, so many rows at a time: the pieces'
  // steps. REQUIRES: kDevice.
  absl::StatusOr<std::vector<exec::StepStats>> Prefill(int32_t piece_rows);

 private:
  GpuSession(const GpuShape& shape, CachePlace place) : shape_(shape), place_(place) {}

  absl::Status CreateExecutor(device::Device& device, const model::Model& model);
  absl::StatusOr<exec::StepStats> Run(exec::WorkItem& item, exec::Phase phase,
                                      absl::Span<const exec::Segment> segments);
  // `rows` rows of the table's sequence from `begin` on.
  absl::StatusOr<exec::StepStats> RunPiece(absl::Span<const kv::BlockId> table, int32_t begin, int32_t rows,
                                           exec::Output output);

  const GpuShape shape_;
  const CachePlace place_;
  std::unique_ptr<kv::HostPool> pool_;
  std::unique_ptr<kv::BlockStore> store_;
  std::unique_ptr<exec::LinkExecutor> executor_;
  std::unique_ptr<exec::WorkItem> decode_;
  std::unique_ptr<exec::WorkItem> prefill_;       // null: kHost
  std::vector<std::vector<kv::BlockId>> tables_;  // of each sequence
  std::vector<int32_t> cached_;                   // tokens of each sequence
  std::vector<kv::BlockId> prompt_;
  std::vector<int32_t> ids_;  // of any segment
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GPU_SESSION_H_
