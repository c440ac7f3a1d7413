// Partial attention on the tensor cores: bf16 and f16, heads of the sizes that models have. A warp multiplies
// 16 queries by keys and values that pass through shared memory, two tiles in flight, and keeps scores and
// sums in registers, as FlashAttention-2 does (Dao 2023).
//
// Wide tasks: each warp has 16 queries of its own and takes every key. Narrow ones: the warps share 16
// queries, each takes 16 keys of a tile, and their sums are merged at the end; so a decode step's few heads
// cost no more than its keys' way through memory. Nothing on that way waits for a look at the block table:
// both first tiles are looked up at once, and each later one while the tile two before it is multiplied.
#include "engine/device/cuda/attention_kernels.h"
#include "engine/device/cuda/attention_result.h"
#include "engine/device/cuda/attention_task.h"
#include "engine/device/cuda/block_reduce.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/tensor_core.h"

namespace spillway::device::cuda {
namespace {

constexpr int kRows = 16;  // queries of a warp; keys of a step of the second product
constexpr float kLog2E = 1.44269504F;
constexpr int kStages = 2;

// Sizes for heads of kD elements.
template <int kD>
struct Shape {
  static constexpr int kWarps = kD <= 128 ? 4 : 2;
  static constexpr int kThreads = kWarps * kWarpThreads;
  static constexpr int kKeys = kWarps * kRows;     // of a tile
  static constexpr int kQueries = kWarps * kRows;  // of a wide task
  static constexpr int kStride = kD + 8;           // elements between rows: no two of eight meet a bank twice
  static constexpr int kPieces = kD / 8;           // of 16 bytes, of a row
  static constexpr int kBlocks = kD <= 128 ? 3 : 1;  // that registers are kept for, of a multiprocessor
};

template <typename T, int kD>
struct alignas(16) TensorShared {
  using S = Shape<kD>;
  const T* k_rows[kStages * S::kKeys];
  const T* v_rows[kStages * S::kKeys];
  float max[S::kWarps * kRows];
  float sum[S::kWarps * kRows];
  union {
    struct {
      T k[S::kKeys][S::kStride];
      T v[S::kKeys][S::kStride];
    } tile[kStages];
    float acc[S::kWarps * kRows][kD];  // when all keys are done
  };
};

template <typename T, int kD, bool kWide>
class TensorTile {
 public:
  using S = Shape<kD>;

  __device__ TensorTile(const PartialAttentionArgs& args, const AttentionTask& task, int kv_head)
      : args_(args),
        task_(task),
        kv_head_(kv_head),
        group_(args.n_heads / args.n_kv_heads),
        shared_(SharedAs<TensorShared<T, kD>>()),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / kWarpThreads),
        lane_(thread_ % kWarpThreads) {}

  // Attends to keys [begin, end) and hands each query's result to deliver(query, max, sum, load), called by a
  // whole warp.
  template <typename Deliver>
  __device__ void Run(int begin, int end, const Deliver& deliver) {
    static_assert(S::kThreads == kStages * S::kKeys);  // each thread finds a row of the first tiles
    const Place first_place = Find(begin + thread_, end);
    LoadQueries();
    Name(thread_, first_place);
    __syncthreads();
    CopyRows(end - begin, 0);
    int stage = 0;
    for (int first = begin; first < end; first += S::kKeys) {
      const int next = 1 - stage;
      CopyRows(end - first - S::kKeys, next);
      AsyncWait<1>();
      __syncthreads();
      const Place place = Find(thread_ < S::kKeys ? first + 2 * S::kKeys + thread_ : end, end);
      Attend(first, end, stage);
      if (thread_ < S::kKeys) Name(stage * S::kKeys + thread_, place);
      __syncthreads();
      stage = next;
    }
    AsyncWait<0>();
    __syncthreads();
    Store();
    __syncthreads();
    for (int query = warp_; query < task_.n_queries; query += S::kWarps) DeliverOne(query, deliver);
  }

 private:
  static constexpr int kKeysOfWarp = kWide ? S::kKeys : kRows;
  static constexpr int kColumns = kKeysOfWarp / 8;  // of scores, in eights

  // Where a key lies.
  struct Place {
    AttentionBlock block;
    int token;  // of the block; -1: there is no such key
  };

  __device__ Place Find(int key, int end) const {
    Place place{{0, 0}, -1};
    if (key < end) {
      const int offset = key - task_.sequence.key_begin;
      const int block = Quotient(offset, args_.block_tokens);
      place.block = At<const AttentionBlock>(args_.blocks)[task_.sequence.first_block + block];
      place.token = offset - block * args_.block_tokens;
    }
    return place;
  }

  // Says where row `row` of the tiles lies. One that is not there is named by the queries, which are; nothing
  // of it is read.
  __device__ void Name(int row, const Place& place) {
    const T* k = At<const T>(args_.q);
    const T* v = k;
    if (place.token >= 0) {
      const int64_t from = (int64_t{kv_head_} * args_.block_tokens + place.token) * kD;
      const auto plane = [&](int32_t slot) {
        return reinterpret_cast<const T*>(args_.arena.base.address +
                                          static_cast<uint64_t>(slot) *
                                              static_cast<uint64_t>(args_.arena.slot_bytes));
      };
      k = plane(place.block.k_slot) + from;
      v = plane(place.block.v_slot) + from;
    }
    shared_.k_rows[row] = k;
    shared_.v_rows[row] = v;
  }

  // One group of asynchronous copies. What lies behind the last key counts as 0.
  __device__ void CopyRows(int n_keys, int stage) {
    if (n_keys > 0) {
      CopyPlane(shared_.k_rows + stage * S::kKeys, n_keys, shared_.tile[stage].k);
      CopyPlane(shared_.v_rows + stage * S::kKeys, n_keys, shared_.tile[stage].v);
    }
    AsyncCommit();
  }

  __device__ void CopyPlane(const T* const* rows, int n_keys, T (&to)[S::kKeys][S::kStride]) {
    constexpr int kCopies = S::kKeys * S::kPieces / S::kThreads;  // of a thread
    static_assert(kCopies * S::kThreads == S::kKeys * S::kPieces);
    // So many rows' places are read, then copied from; few where registers are.
    constexpr int kTogether = kD > 128 ? 2 : kCopies;
#pragma unroll
    for (int done = 0; done < kCopies; done += kTogether) {
      const T* from[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) from[i] = rows[RowOf(done + i)];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int row = RowOf(done + i);
        const int at = ColumnOf(done + i);
        AsyncCopy16(&to[row][at], from[i] + at, row < n_keys ? 16 : 0);
      }
    }
  }
  // Of the thread's i-th piece of a tile.
  __device__ int RowOf(int i) const {
    if constexpr (S::kThreads % S::kPieces == 0) {
      return thread_ / S::kPieces + i * (S::kThreads / S::kPieces);
    } else {
      return (thread_ + i * S::kThreads) / S::kPieces;
    }
  }
  __device__ int ColumnOf(int i) const {
    return (S::kThreads % S::kPieces == 0 ? thread_ : thread_ + i * S::kThreads) % S::kPieces * 8;
  }

  // As operand A of the products lies in registers. They are read once, straight from memory.
  __device__ void LoadQueries() {
    const int first = kWide ? warp_ * kRows : 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int query = first + lane_ / 4 + 8 * i;
      const bool there = query < task_.n_queries;
      const int index = task_.first_query + (there ? query : 0);
      const int row = Quotient(index, group_);
      const int64_t head = int64_t{kv_head_} * group_ + (index - row * group_);
      const T* q =
          At<const T>(args_.q) + int64_t{task_.sequence.first_row + row} * args_.q_stride + head * kD;
#pragma unroll
      for (int j = 0; j < kD / 16; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const T* two = q + 16 * j + 8 * half + lane_ % 4 * 2;
          q_[j][i + 2 * half] = there ? *reinterpret_cast<const uint32_t*>(two) : 0;
        }
      }
      position_[i] = task_.sequence.first_position + Quotient(task_.first_query + query, group_);
    }
    first_position_ = task_.sequence.first_position + Quotient(task_.first_query + first, group_);
  }

  // The registers of a lane: scores[j] are those of rows lane / 4 (0, 1) and lane / 4 + 8 (2, 3) and of keys
  // 8 * j + lane % 4 * 2 and the one after it; sums alike, with columns of V for keys.
  __device__ void Attend(int first, int end, int stage) {
    const auto& tile = shared_.tile[stage];
    const int own = kWide ? 0 : warp_ * kRows;  // the first of this warp's keys in the tile
    float scores[kColumns][4] = {};
    // Neighbouring products add to different scores: one does not wait for the other.
#pragma unroll
    for (int i = 0; i < kD / 16; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; j += 2) {
        const int row = own + 8 * j + lane_ % 8 + lane_ / 16 * 8;
        uint32_t k[4];
        LoadMatrix4(k, &tile.k[row][16 * i + lane_ / 8 % 2 * 8]);
        const uint32_t low[2] = {k[0], k[1]};
        const uint32_t high[2] = {k[2], k[3]};
        Mma16816<T>(scores[j], q_[i], low);
        Mma16816<T>(scores[j + 1], q_[i], high);
      }
    }
    const int last = first + own + kKeysOfWarp - 1;
    if (last >= end || last > first_position_) HideKeys(first + own, end, scores);
    float top[2] = {max_[0], max_[1]};
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scores[j][c] *= args_.scale;
        top[c / 2] = fmaxf(top[c / 2], scores[j][c]);
      }
    }
    float factor[2];
    float from[2];  // what scores are taken relative to; 0 where no key was seen, so that -inf stays
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[i] = WarpReduce<4>(top[i], Maximum());
      from[i] = top[i] == -INFINITY ? 0.0F : top[i];
      factor[i] = Exp2((max_[i] - from[i]) * kLog2E);
      max_[i] = top[i];
      sum_[i] *= factor[i];
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        scores[j][c] = Exp2((scores[j][c] - from[c / 2]) * kLog2E);
        sum_[c / 2] += scores[j][c];
      }
    }
    // Maxima soon stay what they are.
    if (__any_sync(kWholeWarp, factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
      for (int i = 0; i < kD / 8; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) acc_[i][c] *= factor[c / 2];
      }
    }
#pragma unroll
    for (int j = 0; j < kColumns; j += 2) {
      const uint32_t weights[4] = {
          PackTwo(scores[j][0], scores[j][1], T{}), PackTwo(scores[j][2], scores[j][3], T{}),
          PackTwo(scores[j + 1][0], scores[j + 1][1], T{}), PackTwo(scores[j + 1][2], scores[j + 1][3], T{})};
      const int row = own + 8 * j + lane_ % 16;
#pragma unroll
      for (int i = 0; i < kD / 16; ++i) {
        uint32_t v[4];
        LoadMatrix4Transposed(v, &tile.v[row][16 * i + lane_ / 16 * 8]);
        const uint32_t low[2] = {v[0], v[1]};
        const uint32_t high[2] = {v[2], v[3]};
        Mma16816<T>(acc_[2 * i], weights, low);
        Mma16816<T>(acc_[2 * i + 1], weights, high);
      }
    }
  }

  // Of keys that a query does not see, of which scores[0][0] is `first` for some lane.
  __device__ void HideKeys(int first, int end, float (&scores)[kColumns][4]) const {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int key = first + 8 * j + lane_ % 4 * 2 + c % 2;
        if (key >= end || key > position_[c / 2]) scores[j][c] = -INFINITY;
      }
    }
  }

  // Sums to shared memory, where tiles have lain.
  __device__ void Store() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = WarpReduce<4>(sum_[i], Sum());
      const int row = warp_ * kRows + lane_ / 4 + 8 * i;
      if (lane_ % 4 == 0) {
        shared_.max[row] = max_[i];
        shared_.sum[row] = sum;
      }
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) {
        shared_.acc[row][8 * j + lane_ % 4 * 2] = acc_[j][2 * i];
        shared_.acc[row][8 * j + lane_ % 4 * 2 + 1] = acc_[j][2 * i + 1];
      }
    }
  }

  template <typename Deliver>
  __device__ void DeliverOne(int query, const Deliver& deliver) {
    if constexpr (kWide) {
      deliver(query, shared_.max[query], shared_.sum[query], [&](int from, float(&x)[kVectorElements]) {
        LoadEight(&shared_.acc[query][from], kVectorElements, true, x);
      });
    } else {
      float top = -INFINITY;
      for (int warp = 0; warp < S::kWarps; ++warp) top = fmaxf(top, shared_.max[warp * kRows + query]);
      float sum = 0;
      for (int warp = 0; warp < S::kWarps; ++warp) {
        sum += shared_.sum[warp * kRows + query] * WeightOf(shared_.max[warp * kRows + query], top);
      }
      deliver(query, top, sum, [&](int from, float(&x)[kVectorElements]) {
#pragma unroll
        for (int j = 0; j < kVectorElements; ++j) x[j] = 0;
        for (int warp = 0; warp < S::kWarps; ++warp) {
          const int row = warp * kRows + query;
          const float weight = WeightOf(shared_.max[row], top);
          float part[kVectorElements];
          LoadEight(&shared_.acc[row][from], kVectorElements, true, part);
#pragma unroll
          for (int j = 0; j < kVectorElements; ++j) x[j] = fmaf(part[j], weight, x[j]);
        }
      });
    }
  }

  const PartialAttentionArgs& args_;
  const AttentionTask& task_;
  const int kv_head_;
  const int group_;
  TensorShared<T, kD>& shared_;
  const int thread_;
  const int warp_;
  const int lane_;
  // Of rows lane / 4 and lane / 4 + 8.
  uint32_t q_[kD / 16][4];
  int position_[2] = {};
  int first_position_ = 0;  // of the warp's first query
  float max_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {};
  float acc_[kD / 8][4] = {};
};

// grid: [narrow tasks, KV heads, splits]
template <typename T, int kD>
__global__ __launch_bounds__(Shape<kD>::kThreads,
                             Shape<kD>::kBlocks) void NarrowTensorKernel(PartialAttentionArgs args,
                                                                         SplitResults results) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int index = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int split = static_cast<int>(blockIdx.z);
  const AttentionTask task = NarrowTask(args, index);
  if (task.n_queries <= 0) return;
  const KeyRange keys = KeysOfSplit(task, results.splits, split);
  if (split > 0 && keys.begin >= keys.end) return;
  TensorTile<T, kD, false> tile(args, task, kv_head);
  tile.Run(keys.begin, keys.end, [&](int query, float max, float sum, const auto& load) {
    DeliverSplit(args, task, results, {index, kv_head, split, query}, max, sum, true, load);
  });
}

// grid: [wide tasks at most, KV heads]
template <typename T, int kD>
__global__ __launch_bounds__(Shape<kD>::kThreads,
                             Shape<kD>::kBlocks) void WideTensorKernel(PartialAttentionArgs args) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int kv_head = static_cast<int>(blockIdx.y);
  const AttentionTask task = WideTask(args, static_cast<int>(blockIdx.x), Shape<kD>::kQueries);
  if (task.n_queries <= 0) return;
  TensorTile<T, kD, true> tile(args, task, kv_head);
  tile.Run(task.key_begin, task.key_end, [&](int query, float max, float sum, const auto& load) {
    DeliverQuery(args, task, kv_head, query, max, sum, true, load);
  });
}

template <typename T, int kD>
cudaError_t LaunchNarrowAs(const PartialAttentionArgs& args, const SplitResults& results,
                           KernelStream stream) {
  LaunchShape shape;
  shape.grid = NarrowGrid(args, results.splits);
  shape.block = dim3(Shape<kD>::kThreads);
  shape.shared_bytes = sizeof(TensorShared<T, kD>);
  return Launch(NarrowTensorKernel<T, kD>, shape, stream, args, results);
}

template <typename T, int kD>
cudaError_t LaunchWideAs(const PartialAttentionArgs& args, KernelStream stream) {
  LaunchShape shape;
  shape.grid = WideGrid(args, Shape<kD>::kQueries);
  shape.block = dim3(Shape<kD>::kThreads);
  shape.shared_bytes = sizeof(TensorShared<T, kD>);
  return Launch(WideTensorKernel<T, kD>, shape, stream, args);
}

template <int kD>
struct HeadTag {
  static constexpr int kElements = kD;
};

// Calls launch(ElementTag<T>(), HeadTag<kD>()). REQUIRES: HasTensorAttention.
template <typename Callable>
cudaError_t WithHead(DType type, int32_t d_head, const Callable& launch) {
  const auto with_head = [&](auto tag) {
    switch (d_head) {
      case 64:
        return launch(tag, HeadTag<64>());
      case 80:
        return launch(tag, HeadTag<80>());
      case 96:
        return launch(tag, HeadTag<96>());
      case 128:
        return launch(tag, HeadTag<128>());
      case 256:
        return launch(tag, HeadTag<256>());
      default:
        return cudaErrorInvalidValue;
    }
  };
  return type == DType::kBF16 ? with_head(ElementTag<__nv_bfloat16>()) : with_head(ElementTag<__half>());
}

}  // namespace

bool HasTensorAttention(DType type, int32_t d_head) {
  return type != DType::kF32 &&
         (d_head == 64 || d_head == 80 || d_head == 96 || d_head == 128 || d_head == 256);
}

cudaError_t LaunchNarrowTensor(DType type, const PartialAttentionArgs& args, const SplitResults& results,
                               KernelStream stream) {
  return WithHead(type, args.d_head, [&](auto element, auto head) {
    return LaunchNarrowAs<typename decltype(element)::Type, decltype(head)::kElements>(args, results, stream);
  });
}

cudaError_t LaunchWideTensor(DType type, const PartialAttentionArgs& args, KernelStream stream) {
  return WithHead(type, args.d_head, [&](auto element, auto head) {
    return LaunchWideAs<typename decltype(element)::Type, decltype(head)::kElements>(args, stream);
  });
}

}  // namespace spillway::device::cuda
