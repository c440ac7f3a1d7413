// Partial attention over block tables, split over threads by sequences, KV heads, rows and, where those are
// few, by keys. A row's result depends on its own sequence only: neither the rest of the batch nor the number
// of threads changes a bit of it.
//
// Thread-compatible. All working memory is allocated at construction.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_ATTENTION_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_ATTENTION_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "engine/device/cpu/host_memory.h"
#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/thread_team.h"
#include "engine/device/ops.h"
#include "engine/device/types.h"

namespace spillway::device {

class CpuAttention {
 public:
  CpuAttention(const Kernels& kernels, DType type, ThreadTeam& team);

  void Partial(const PartialAttentionArgs& args);
  void Merge(const MergeAttentionArgs& args);

 private:
  // One tile of queries of one KV head of one sequence. Its keys are taken in chunks of equal length whose
  // results are merged in order, by one thread or by many.
  struct Task {
    const AttentionSequence* sequence;
    int64_t kv_head;
    int64_t first_query;
    int64_t n_queries;
    int64_t chunks;
    int64_t chunk_keys;
  };
  // Where the result of a tile's rows lies: AttentionBuffers' acc, max and sum.
  struct TileResult {
    float* acc;
    float* max;
    float* sum;
  };
  class TaskCursor;

  void RunTasks(const PartialAttentionArgs& args, int64_t tasks);
  void RunChunks(const PartialAttentionArgs& args, int64_t tasks);
  void Attend(const PartialAttentionArgs& args, const Task& task, int64_t chunk, const TileResult& result,
              int32_t thread);
  void MergeInto(const TileResult& into, const TileResult& part, int64_t rows, int64_t d16) const;
  void Deliver(const PartialAttentionArgs& args, const Task& task, const TileResult& result) const;
  TileResult ThreadResult(int32_t thread, bool later_chunk) const;
  TileResult PartResult(int64_t part) const;

  const Kernels& kernels_;
  const DType type_;
  ThreadTeam& team_;
  std::vector<AlignedBytes> scratch_;  // a thread each
  AlignedBytes parts_;                 // results of chunks that different threads compute
  std::vector<std::atomic<int64_t>> chunks_done_;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_ATTENTION_H_
