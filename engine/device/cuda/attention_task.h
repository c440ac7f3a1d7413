// How a call of PartialAttention is cut into the work of blocks. The host knows how many rows and sequences
// there are, not how they are spread: that lies in device arrays. So it launches as many blocks as there may
// be work for, and each finds its own, or that there is none.
//
// A tile is up to so many queries of one KV head of one sequence: query i is head i % group of the sequence's
// row i / group. Narrow sequences (a decode step's) fill one tile or a few; their keys are split between
// blocks. Wide ones (a prefill chunk's) have tiles enough.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_TASK_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_TASK_H_

#include "engine/device/cuda/element.h"
#include "engine/device/cuda/vector_access.h"
#include "engine/device/cuda/warp_scan.h"
#include "engine/device/ops.h"

namespace spillway::device::cuda {

constexpr int kNarrowQueries = 16;
// A split of a narrow tile has so many keys at least, and a multiple of kSplitKeysStep.
constexpr int kSplitKeysMin = 64;
constexpr int kSplitKeysStep = 16;

struct AttentionTask {
  AttentionSequence sequence;
  int first_query;
  int n_queries;  // 0: nothing to do
  int key_begin;
  int key_end;  // no query of the tile sees this key or a later one
};

// Of numbers that are not negative, which spares half of a division's instructions.
__device__ inline int Quotient(int n, int by) {
  return static_cast<int>(static_cast<unsigned>(n) / static_cast<unsigned>(by));
}
__device__ inline int QuotientUp(int n, int by) { return Quotient(n + by - 1, by); }

__host__ __device__ inline bool IsNarrow(int n_rows, int group) {
  return n_rows == 1 || n_rows * group <= kNarrowQueries;
}

// Tiles that a narrow sequence has at most.
__host__ __device__ inline int NarrowTiles(int group) {
  return (group + kNarrowQueries - 1) / kNarrowQueries;
}

__device__ inline AttentionTask TaskOf(const AttentionSequence& sequence, int group, int first_query,
                                       int queries_max) {
  AttentionTask task;
  task.sequence = sequence;
  task.first_query = first_query;
  const int left = sequence.n_rows * group - first_query;
  task.n_queries = left < queries_max ? left : queries_max;
  task.key_begin = sequence.key_begin;
  const int last_position = sequence.first_position + (first_query + task.n_queries - 1) / group;
  task.key_end = sequence.key_end < last_position + 1 ? sequence.key_end : last_position + 1;
  return task;
}

// How many keys each split of a narrow task takes; the first takes what there is even where that is none.
__device__ inline int SplitKeys(const AttentionTask& task, int splits) {
  const int keys = task.key_end - task.key_begin;
  const int even = QuotientUp(keys > 0 ? keys : 0, splits);
  return even < kSplitKeysMin ? kSplitKeysMin : QuotientUp(even, kSplitKeysStep) * kSplitKeysStep;
}
// Splits that have keys; at least 1.
__device__ inline int LiveSplits(const AttentionTask& task, int splits) {
  const int keys = task.key_end - task.key_begin;
  return keys <= 0 ? 1 : QuotientUp(keys, SplitKeys(task, splits));
}

struct KeyRange {
  int begin;
  int end;
};
__device__ inline KeyRange KeysOfSplit(const AttentionTask& task, int splits, int split) {
  const int keys = SplitKeys(task, splits);
  const int begin = task.key_begin + split * keys;
  return {begin, begin + keys < task.key_end ? begin + keys : task.key_end};
}

// The narrow task with this index, of n_sequences * NarrowTiles(group).
__device__ inline AttentionTask NarrowTask(const PartialAttentionArgs& args, int index) {
  const int group = args.n_heads / args.n_kv_heads;
  const int tiles = NarrowTiles(group);
  const int of_sequence = Quotient(index, tiles);
  const AttentionSequence sequence = At<const AttentionSequence>(args.sequences)[of_sequence];
  AttentionTask task =
      TaskOf(sequence, group, (index - of_sequence * tiles) * kNarrowQueries, kNarrowQueries);
  if (!IsNarrow(sequence.n_rows, group)) task.n_queries = 0;
  return task;
}

// The wide task with this index: the tiles of wide sequences, in order. Every lane of a warp must call it.
__device__ inline AttentionTask WideTask(const PartialAttentionArgs& args, int index, int queries_max) {
  const int group = args.n_heads / args.n_kv_heads;
  const AttentionSequence* sequences = At<const AttentionSequence>(args.sequences);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  int before = 0;  // tiles of the sequences looked at
  for (int first = 0; first < args.n_sequences; first += kWarpThreads) {
    int tiles = 0;
    if (first + lane < args.n_sequences) {
      const int n_rows = sequences[first + lane].n_rows;
      if (!IsNarrow(n_rows, group)) tiles = static_cast<int>(CeilDivide(n_rows * group, queries_max));
    }
    const int end = before + WarpPrefixSum(tiles);
    const unsigned found = __ballot_sync(kWholeWarp, index < end);
    if (found != 0) {
      const int owner = __ffs(static_cast<int>(found)) - 1;
      const int begin = __shfl_sync(kWholeWarp, end - tiles, owner);
      return TaskOf(sequences[first + owner], group, (index - begin) * queries_max, queries_max);
    }
    before = __shfl_sync(kWholeWarp, end, kWarpThreads - 1);
  }
  AttentionTask none{};
  return none;
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_TASK_H_
