// Where unfinished attention of one query goes: its row of acc, max and sum, alone or merged with what is
// there.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_RESULT_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_RESULT_H_

#include "engine/device/cuda/attention_task.h"
#include "engine/device/cuda/softmax_merge.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {

// By one whole warp. load(from, x) gives elements [from, from + 8) of the query's acc.
template <typename Load>
__device__ inline void DeliverQuery(const PartialAttentionArgs& args, const AttentionTask& task, int kv_head,
                                    int query, float max, float sum, bool aligned, const Load& load) {
  const int group = args.n_heads / args.n_kv_heads;
  const int index = task.first_query + query;
  const int64_t row = task.sequence.first_row + index / group;
  const int64_t at = row * args.n_heads + int64_t{kv_head} * group + index % group;
  float* out_max = At<float>(args.max) + at;
  float* out_sum = At<float>(args.sum) + at;
  float* out = At<float>(args.acc) + at * args.d_head;

  float old_max = -INFINITY;
  float old_sum = 0;
  if (args.accumulate) {
    old_max = *out_max;
    old_sum = *out_sum;
  }
  if (old_max != -INFINITY && max == -INFINITY) return;
  const float top = fmaxf(old_max, max);
  const float keep = WeightOf(old_max, top);
  const float add = old_max == -INFINITY ? 1.0F : WeightOf(max, top);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  for (int from = lane * kVectorElements; from < args.d_head; from += kWarpThreads * kVectorElements) {
    float x[kVectorElements];
    load(from, x);
    if (keep != 0) {
      float old[kVectorElements];
      LoadEight(out + from, args.d_head - from, aligned, old);
#pragma unroll
      for (int i = 0; i < kVectorElements; ++i) x[i] = fmaf(old[i], keep, x[i] * add);
    }
    StoreEight(out + from, args.d_head - from, aligned, x);
  }
  __syncwarp();  // all lanes have read the old maximum
  if (lane == 0) {
    *out_max = top;
    *out_sum = old_sum * keep + sum * add;
  }
}

// Results of the splits of narrow tasks, until they are merged.
struct SplitResults {
  int splits = 1;        // of a task; 1: results are delivered at once
  float* acc = nullptr;  // [tasks][n_kv_heads][splits][kNarrowQueries][d8], d8 a multiple of 8
  float* max = nullptr;  // [tasks][n_kv_heads][splits][kNarrowQueries]
  float* sum = nullptr;
};
struct SplitPlace {
  int task;
  int kv_head;
  int split;
  int query;
};
__device__ inline int64_t IndexOf(const PartialAttentionArgs& args, const SplitResults& results,
                                  const SplitPlace& at) {
  return ((int64_t{at.task} * args.n_kv_heads + at.kv_head) * results.splits + at.split) * kNarrowQueries +
         at.query;
}
__device__ inline int PaddedHead(const PartialAttentionArgs& args) {
  return static_cast<int>(CeilDivide(args.d_head, kVectorElements)) * kVectorElements;
}

// As DeliverQuery, where there may be other splits.
template <typename Load>
__device__ inline void DeliverSplit(const PartialAttentionArgs& args, const AttentionTask& task,
                                    const SplitResults& results, const SplitPlace& place, float max,
                                    float sum, bool aligned, const Load& load) {
  if (results.splits == 1) {
    DeliverQuery(args, task, place.kv_head, place.query, max, sum, aligned, load);
    return;
  }
  const int64_t at = IndexOf(args, results, place);
  const int d8 = PaddedHead(args);
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  for (int from = lane * kVectorElements; from < d8; from += kWarpThreads * kVectorElements) {
    float x[kVectorElements];
    load(from, x);
    StoreEight(results.acc + at * d8 + from, x);
  }
  if (lane == 0) {
    results.max[at] = max;
    results.sum[at] = sum;
  }
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_RESULT_H_
