// Partial attention on the ordinary cores, for every element type and head size. Keys and values pass through
// shared memory a tile at a time, so that all query heads of a KV head share each load.
#include <algorithm>

#include "engine/device/cuda/attention_kernels.h"
#include "engine/device/cuda/attention_result.h"
#include "engine/device/cuda/attention_task.h"
#include "engine/device/cuda/block_reduce.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kKeysMax = kWarpThreads;  // of a tile: a lane scores one

// Followed by the arrays that TileLayout places.
struct alignas(16) AttentionShared {
  const void* k_rows[kKeysMax];
  const void* v_rows[kKeysMax];
  float factor[kWarpThreads];  // by query: what sums so far are multiplied by
};

// Offsets in bytes from the beginning of shared memory. Rows of K and V are 16 bytes apart from a power of
// two, so that lanes that read the same column of neighbouring rows meet no bank twice.
struct TileLayout {
  int d8;         // d_head rounded up to 8; what is beyond d_head is 0
  int kv_stride;  // elements between rows
  int q;          // f32 [kQueries][d8]
  int acc;        // f32 [max(kQueries, kThreads / chunks)][d8]
  int weights;    // f32 [kQueries][kKeys]
  int k;          // T [kKeys][kv_stride]
  int v;          // T [kKeys][kv_stride]
  int bytes;
};

__host__ __device__ constexpr TileLayout LayoutOf(int d_head, int queries, int keys, int element_bytes) {
  TileLayout at{};
  at.d8 = (d_head + kVectorElements - 1) / kVectorElements * kVectorElements;
  at.kv_stride = at.d8 + kVectorBytes / element_bytes;
  const int chunks = at.d8 / kVectorElements;
  const int slots = queries > kThreads / chunks ? queries : kThreads / chunks;
  at.q = static_cast<int>(sizeof(AttentionShared));
  at.acc = at.q + queries * at.d8 * 4;
  at.weights = at.acc + slots * at.d8 * 4;
  at.k = at.weights + queries * keys * 4;
  at.v = at.k + keys * at.kv_stride * element_bytes;
  at.bytes = at.v + keys * at.kv_stride * element_bytes;
  return at;
}

// Attends the queries of one tile to keys [begin, end), and hands each query's result to
// deliver(query, max, sum, load), called by a whole warp.
template <typename T, int kQueries, int kKeys>
class TileAttention {
 public:
  __device__ TileAttention(const PartialAttentionArgs& args, const AttentionTask& task, int kv_head,
                           bool aligned)
      : args_(args),
        task_(task),
        kv_head_(kv_head),
        aligned_(aligned),
        shared_(SharedAs<AttentionShared>()),
        at_(LayoutOf(args.d_head, kQueries, kKeys, static_cast<int>(sizeof(T)))),
        group_(args.n_heads / args.n_kv_heads),
        chunks_(at_.d8 / kVectorElements),
        groups_(kThreads / chunks_),
        replicas_(groups_ > task.n_queries ? groups_ / task.n_queries : 1),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / kWarpThreads),
        lane_(thread_ % kWarpThreads) {
#pragma unroll
    for (int i = 0; i < kQueriesOfWarp; ++i) {
      max_[i] = -INFINITY;
      sum_[i] = 0;
    }
  }

  template <typename Deliver>
  __device__ void Run(int begin, int end, const Deliver& deliver) {
    LoadQueries();
    FindRows(begin, end);
    __syncthreads();
    for (int first = begin; first < end; first += kKeys) {
      LoadRows(end - first);
      __syncthreads();
      Score(first, end);
      FindRows(first + kKeys, end);
      __syncthreads();
      AddValues();
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kQueriesOfWarp; ++i) {
      const int query = warp_ + i * kWarps;
      if (query >= task_.n_queries) break;
      deliver(query, max_[i], sum_[i], [&](int from, float(&x)[kVectorElements]) {
#pragma unroll
        for (int j = 0; j < kVectorElements; ++j) x[j] = 0;
        for (int replica = 0; replica < replicas_; ++replica) {
          float part[kVectorElements];
          LoadEight(Acc(replica * task_.n_queries + query) + from, kVectorElements, true, part);
#pragma unroll
          for (int j = 0; j < kVectorElements; ++j) x[j] += part[j];
        }
      });
    }
  }

 private:
  static constexpr int kQueriesOfWarp = kQueries / kWarps;

  template <typename E>
  __device__ E* Shared(int offset_bytes) const {
    return reinterpret_cast<E*>(reinterpret_cast<unsigned char*>(&shared_) + offset_bytes);
  }
  __device__ float* Acc(int slot) const { return Shared<float>(at_.acc) + slot * at_.d8; }

  __device__ void LoadQueries() {
    const T* q = At<const T>(args_.q);
    float* out = Shared<float>(at_.q);
    for (int i = thread_; i < task_.n_queries * chunks_; i += kThreads) {
      const int index = task_.first_query + i / chunks_;
      const int from = i % chunks_ * kVectorElements;
      const int64_t row = task_.sequence.first_row + index / group_;
      const int64_t head = int64_t{kv_head_} * group_ + index % group_;
      float x[kVectorElements];
      LoadEight(q + row * args_.q_stride + head * args_.d_head + from, args_.d_head - from, aligned_, x);
      StoreEight(out + i / chunks_ * at_.d8 + from, x);
    }
    const int slots = task_.n_queries * replicas_;
    for (int i = thread_; i < slots * at_.d8; i += kThreads) Shared<float>(at_.acc)[i] = 0;
  }

  // Where the rows of keys [first, first + kKeys) lie.
  __device__ void FindRows(int first, int end) {
    if (warp_ != kWarps - 1 || lane_ >= kKeys || first + lane_ >= end) return;
    const int offset = first + lane_ - task_.sequence.key_begin;
    const AttentionBlock block =
        At<const AttentionBlock>(args_.blocks)[task_.sequence.first_block + offset / args_.block_tokens];
    const int64_t row = (int64_t{kv_head_} * args_.block_tokens + offset % args_.block_tokens) * args_.d_head;
    const auto plane = [&](int32_t slot) {
      return reinterpret_cast<const T*>(args_.arena.base.address +
                                        static_cast<uint64_t>(slot) *
                                            static_cast<uint64_t>(args_.arena.slot_bytes));
    };
    shared_.k_rows[lane_] = plane(block.k_slot) + row;
    shared_.v_rows[lane_] = plane(block.v_slot) + row;
  }

  // What lies behind the last key may hold anything: it counts as 0.
  __device__ void LoadRows(int n_keys) {
    T* k = Shared<T>(at_.k);
    T* v = Shared<T>(at_.v);
    for (int i = thread_; i < kKeys * chunks_; i += kThreads) {
      const int row = i / chunks_;
      const int from = i % chunks_ * kVectorElements;
      const int left = row < n_keys ? args_.d_head - from : 0;
      T* k_to = k + row * at_.kv_stride + from;
      T* v_to = v + row * at_.kv_stride + from;
      if (aligned_ && left >= kVectorElements) {
        CopyEight(k_to, static_cast<const T*>(shared_.k_rows[row]) + from, left, true);
        CopyEight(v_to, static_cast<const T*>(shared_.v_rows[row]) + from, left, true);
      } else {
        float x[kVectorElements] = {};
        float y[kVectorElements] = {};
        if (left > 0) {
          LoadEight(static_cast<const T*>(shared_.k_rows[row]) + from, left, false, x);
          LoadEight(static_cast<const T*>(shared_.v_rows[row]) + from, left, false, y);
        }
        StoreEight(k_to, x);
        StoreEight(v_to, y);
      }
    }
  }

  // Scores, maxima, weights and their sums: a lane has one key, a warp every kWarps-th query.
  __device__ void Score(int first, int end) {
    float scores[kQueriesOfWarp] = {};
    const T* k = Shared<T>(at_.k) + (lane_ < kKeys ? lane_ : 0) * at_.kv_stride;
    const float* q = Shared<float>(at_.q);
    if (warp_ < task_.n_queries) {
      for (int from = 0; from < at_.d8; from += kVectorElements) {
        float x[kVectorElements];
        LoadEight(k + from, kVectorElements, true, x);
#pragma unroll
        for (int i = 0; i < kQueriesOfWarp; ++i) {
          const int query = warp_ + i * kWarps;
          if (query >= task_.n_queries) break;
          float y[kVectorElements];
          LoadEight(q + query * at_.d8 + from, kVectorElements, true, y);
#pragma unroll
          for (int j = 0; j < kVectorElements; ++j) scores[i] = fmaf(x[j], y[j], scores[i]);
        }
      }
    }
    const int key = first + lane_;
#pragma unroll
    for (int i = 0; i < kQueriesOfWarp; ++i) {
      const int query = warp_ + i * kWarps;
      if (query >= task_.n_queries) break;
      const int position = task_.sequence.first_position + (task_.first_query + query) / group_;
      const bool seen = lane_ < kKeys && key < end && key <= position;
      const float score = seen ? scores[i] * args_.scale : -INFINITY;
      const float top = fmaxf(max_[i], WarpReduce(score, Maximum()));
      const float weight = WeightOf(score, top);
      const float factor = WeightOf(max_[i], top);
      sum_[i] = sum_[i] * factor + WarpReduce(weight, Sum());
      max_[i] = top;
      if (lane_ < kKeys) Shared<float>(at_.weights)[query * kKeys + lane_] = weight;
      if (lane_ == 0) shared_.factor[query] = factor;
    }
  }

  // A thread has eight columns of one or several queries. With few queries several threads share one, each
  // with keys and a sum of its own (a replica).
  __device__ void AddValues() {
    const int chunk = thread_ % chunks_;
    if (thread_ / chunks_ >= groups_) return;
    const T* v = Shared<T>(at_.v) + chunk * kVectorElements;
    const float* weights = Shared<float>(at_.weights);
    for (int slot = thread_ / chunks_; slot < task_.n_queries * replicas_; slot += groups_) {
      const int query = slot % task_.n_queries;
      float* acc = Acc(slot) + chunk * kVectorElements;
      float sums[kVectorElements];
      LoadEight(acc, kVectorElements, true, sums);
      const float factor = shared_.factor[query];
#pragma unroll
      for (int j = 0; j < kVectorElements; ++j) sums[j] *= factor;
      for (int key = slot / task_.n_queries; key < kKeys; key += replicas_) {
        const float weight = weights[query * kKeys + key];
        float x[kVectorElements];
        LoadEight(v + key * at_.kv_stride, kVectorElements, true, x);
#pragma unroll
        for (int j = 0; j < kVectorElements; ++j) sums[j] = fmaf(x[j], weight, sums[j]);
      }
      StoreEight(acc, sums);
    }
  }

  const PartialAttentionArgs& args_;
  const AttentionTask& task_;
  const int kv_head_;
  const bool aligned_;
  AttentionShared& shared_;
  const TileLayout at_;
  const int group_;
  const int chunks_;    // of eight columns
  const int groups_;    // of threads that take all columns together
  const int replicas_;  // of a query's sums
  const int thread_;
  const int warp_;
  const int lane_;
  float max_[kQueriesOfWarp];
  float sum_[kQueriesOfWarp];
};

// grid: [narrow tasks, KV heads, splits]
template <typename T, int kKeys>
__global__ void NarrowAttentionKernel(PartialAttentionArgs args, SplitResults results, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int index = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int split = static_cast<int>(blockIdx.z);
  const AttentionTask task = NarrowTask(args, index);
  if (task.n_queries <= 0) return;
  const KeyRange keys = KeysOfSplit(task, results.splits, split);
  if (split > 0 && keys.begin >= keys.end) return;
  TileAttention<T, kNarrowQueries, kKeys> tile(args, task, kv_head, aligned);
  tile.Run(keys.begin, keys.end, [&](int query, float max, float sum, const auto& load) {
    DeliverSplit(args, task, results, {index, kv_head, split, query}, max, sum, aligned, load);
  });
}

constexpr int kSplitsMax = 2 * kWarpThreads;  // a lane weighs two

// Groups of threads that have all columns between them.
__host__ __device__ constexpr int MergeGroups(int chunks) { return kThreads / chunks; }

// Followed by f32 [groups of threads][d8]: what each group sums.
struct alignas(16) MergeShared {
  float weights[kSplitsMax];
};

// Merges the splits of one query. Eight columns are a thread's, and the threads that have the same ones share
// the splits: each reading takes as long as a split's keys.
__device__ inline void MergeQuery(const PartialAttentionArgs& args, const AttentionTask& task,
                                  const SplitResults& results, int64_t first, int kv_head, int query,
                                  bool aligned) {
  const int live = LiveSplits(task, results.splits);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpThreads;
  MergeShared& shared = SharedAs<MergeShared>();

  // Every warp finds the same maximum and sum.
  float max[2];
  float sums[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int split = lane + i * kWarpThreads;
    const int64_t at = first + int64_t{split} * kNarrowQueries;
    max[i] = split < live ? results.max[at] : -INFINITY;
    sums[i] = split < live ? results.sum[at] : 0.0F;
  }
  const float top = WarpReduce(fmaxf(max[0], max[1]), Maximum());
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float weight = WeightOf(max[i], top);
    sum += sums[i] * weight;
    if (thread < kWarpThreads) shared.weights[lane + i * kWarpThreads] = weight;
  }
  sum = WarpReduce(sum, Sum());
  __syncthreads();

  const int d8 = PaddedHead(args);
  const int chunks = d8 / kVectorElements;
  const int groups = MergeGroups(chunks);
  const int group = thread / chunks;
  const int column = thread % chunks * kVectorElements;
  float* const merged = reinterpret_cast<float*>(&shared + 1);  // [groups][d8]
  if (group < groups) {
    float x[kVectorElements] = {};
#pragma unroll 4
    for (int split = group; split < live; split += groups) {
      const int64_t at = first + int64_t{split} * kNarrowQueries;
      float part[kVectorElements];
      LoadEight(results.acc + at * d8 + column, kVectorElements, true, part);
#pragma unroll
      for (int j = 0; j < kVectorElements; ++j) x[j] = fmaf(part[j], shared.weights[split], x[j]);
    }
    StoreEight(merged + group * d8 + column, x);
  }
  __syncthreads();
  if (thread >= kWarpThreads) return;
  DeliverQuery(args, task, kv_head, query, top, sum, aligned, [&](int from, float(&x)[kVectorElements]) {
#pragma unroll
    for (int j = 0; j < kVectorElements; ++j) x[j] = 0;
    for (int i = 0; i < groups; ++i) {
      float part[kVectorElements];
      LoadEight(merged + i * d8 + from, kVectorElements, true, part);
#pragma unroll
      for (int j = 0; j < kVectorElements; ++j) x[j] += part[j];
    }
  });
}

// grid: [narrow tasks, KV heads, queries, or as many of them as most tasks have]
__global__ void MergeSplitsKernel(PartialAttentionArgs args, SplitResults results, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int index = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const AttentionTask task = NarrowTask(args, index);
  for (int query = static_cast<int>(blockIdx.z); query < task.n_queries;
       query += static_cast<int>(gridDim.z)) {
    MergeQuery(args, task, results, IndexOf(args, results, {index, kv_head, 0, query}), kv_head, query,
               aligned);
    __syncthreads();  // the next one's sums take the place of these
  }
}

// grid: [wide tasks at most, KV heads]
template <typename T, int kQueries, int kKeys>
__global__ void WideAttentionKernel(PartialAttentionArgs args, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int kv_head = static_cast<int>(blockIdx.y);
  const AttentionTask task = WideTask(args, static_cast<int>(blockIdx.x), kQueries);
  if (task.n_queries <= 0) return;
  TileAttention<T, kQueries, kKeys> tile(args, task, kv_head, aligned);
  tile.Run(task.key_begin, task.key_end, [&](int query, float max, float sum, const auto& load) {
    DeliverQuery(args, task, kv_head, query, max, sum, aligned, load);
  });
}

template <typename T, int kKeys>
cudaError_t LaunchNarrowPlain(const PartialAttentionArgs& args, const SplitResults& results, bool aligned,
                              KernelStream stream) {
  LaunchShape shape;
  shape.grid = NarrowGrid(args, results.splits);
  shape.block = dim3(kThreads);
  shape.shared_bytes =
      static_cast<size_t>(LayoutOf(args.d_head, kNarrowQueries, kKeys, static_cast<int>(sizeof(T))).bytes);
  return Launch(NarrowAttentionKernel<T, kKeys>, shape, stream, args, results, aligned);
}

template <typename T, int kQueries, int kKeys>
cudaError_t LaunchWidePlain(const PartialAttentionArgs& args, bool aligned, KernelStream stream) {
  LaunchShape shape;
  shape.grid = WideGrid(args, kQueries);
  shape.block = dim3(kThreads);
  shape.shared_bytes =
      static_cast<size_t>(LayoutOf(args.d_head, kQueries, kKeys, static_cast<int>(sizeof(T))).bytes);
  return Launch(WideAttentionKernel<T, kQueries, kKeys>, shape, stream, args, aligned);
}

// With larger heads, smaller tiles: the smallest devices have 99 KB of shared memory for a block.
bool IsLargeHead(DType type, int32_t d_head) { return d_head * SizeOf(type) > 512; }

cudaError_t LaunchNarrow(DType type, const PartialAttentionArgs& args, const SplitResults& results,
                         bool aligned, KernelStream stream) {
  if (aligned && HasTensorAttention(type, args.d_head))
    return LaunchNarrowTensor(type, args, results, stream);
  return WithElement(type, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return IsLargeHead(type, args.d_head) ? LaunchNarrowPlain<T, 8>(args, results, aligned, stream)
                                          : LaunchNarrowPlain<T, kKeysMax>(args, results, aligned, stream);
  });
}

cudaError_t LaunchWide(DType type, const PartialAttentionArgs& args, bool aligned, KernelStream stream) {
  if (aligned && HasTensorAttention(type, args.d_head)) return LaunchWideTensor(type, args, stream);
  return WithElement(type, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (IsLargeHead(type, args.d_head)) return LaunchWidePlain<T, 16, 8>(args, aligned, stream);
    return args.d_head <= 128 ? LaunchWidePlain<T, 32, kKeysMax>(args, aligned, stream)
                              : LaunchWidePlain<T, 16, kKeysMax>(args, aligned, stream);
  });
}

// Splits so that every multiprocessor has as many blocks, as far as there is room for their results: all of
// them are at work at once when sequences are few, and when they are many, and differ in length, small blocks
// even that out.
SplitResults PlanSplits(const PartialAttentionArgs& args, const AttentionScratch& scratch) {
  const int64_t of_processor = args.n_sequences == 1 ? 2 : args.n_sequences < 8 ? 3 : 6;
  const dim3 grid = NarrowGrid(args, 1);
  const int64_t tasks = int64_t{grid.x} * grid.y;
  const int64_t queries = tasks * kNarrowQueries;
  const int64_t d8 = CeilDivide(args.d_head, kVectorElements) * kVectorElements;
  const int64_t room = scratch.size_bytes / (queries * (d8 + 2) * int64_t{sizeof(float)});
  const int64_t wanted = of_processor * scratch.processors / tasks;
  const int64_t splits = std::max<int64_t>(std::min({wanted, room, int64_t{kSplitsMax}}), 1);
  SplitResults results;
  results.splits = static_cast<int>(splits);
  results.acc = scratch.memory;
  results.max = results.acc + queries * splits * d8;
  results.sum = results.max + queries * splits;
  return results;
}

}  // namespace

cudaError_t LaunchPartialAttention(DType type, const PartialAttentionArgs& args,
                                   const AttentionScratch& scratch, KernelStream stream) {
  const int64_t element_bytes = SizeOf(type);
  const bool aligned =
      AllAligned(args.q.address, args.arena.base.address, args.arena.slot_bytes, args.acc.address,
                 args.d_head * element_bytes, args.q_stride * element_bytes);
  const SplitResults results = PlanSplits(args, scratch);
  cudaError_t launched = LaunchNarrow(type, args, results, aligned, stream);
  if (launched == cudaSuccess && results.splits > 1) {
    LaunchShape shape;
    // Of a decode step, in which each sequence has one row; others may have up to kNarrowQueries in all.
    const int32_t group = args.n_heads / args.n_kv_heads;
    shape.grid = NarrowGrid(args, std::min(group, kNarrowQueries));
    shape.block = dim3(kThreads);
    const int64_t d8 = CeilDivide(args.d_head, kVectorElements) * kVectorElements;
    const int groups = MergeGroups(static_cast<int>(d8 / kVectorElements));
    shape.shared_bytes = sizeof(MergeShared) + static_cast<size_t>(groups * d8) * sizeof(float);
    launched = Launch(MergeSplitsKernel, shape, stream, args, results, aligned);
  }
  // Where every sequence has one row there is nothing wide.
  if (launched != cudaSuccess || args.rows == args.n_sequences) return launched;
  return LaunchWide(type, args, aligned, stream);
}

}  // namespace spillway::device::cuda
