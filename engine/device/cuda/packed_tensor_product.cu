// Products of packed weights with a decode step's rows on the tensor cores, in bf16. A block takes 16 or
// 32 features of the matrix; its warps take spans of their rows in turn, each through shared memory of its
// own with several spans in flight, and their sums are added at the end. So weights are read as they are
// packed, and a weight costs about one instruction to unpack. Blocks of the same features and other rows of
// the input follow one another: the second finds the weights in the L2 cache. No kernel writes weights right
// before this one (cuda_device.cc), so the first are read before it waits for those ahead of it.
#include <algorithm>

#include "engine/device/cuda/block_reduce.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/packed_decode.h"
#include "engine/device/cuda/packed_result.h"
#include "engine/device/cuda/packed_tile.h"
#include "engine/device/cuda/tensor_core.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

using T = __nv_bfloat16;

constexpr int kTileFeatures = 16;
constexpr int kTileRows = 8;
// Of PackedRow::kStride: Q8_0's, and the largest of which three spans are under way.
constexpr int kStrideMax = PackedRow<Encoding::kQ8_0>::kStride;
constexpr int kSmallStrideMax = PackedRow<Encoding::kQ5_1>::kStride;

// A block's warps, and the tiles of features and of rows that each of them has.
template <int kWarpsOfBlock, int kFeatureTilesOfWarp, int kRowTilesOfWarp>
struct BlockShape {
  static constexpr int kWarps = kWarpsOfBlock;
  static constexpr int kThreads = kWarps * kWarpThreads;
  static constexpr int kFeatureTiles = kFeatureTilesOfWarp;
  static constexpr int kRowTiles = kRowTilesOfWarp;
  static constexpr int kFeatures = kFeatureTiles * kTileFeatures;
  static constexpr int kRows = kRowTiles * kTileRows;
  using Sums = float[kFeatureTiles][kRowTiles][4];

  // Spans of `stride` bytes a row in a warp's ring: where a second tile makes them large, the other blocks of
  // a multiprocessor have more under way.
  __host__ __device__ static constexpr int Stages(int stride) {
    return kFeatureTiles == 1 && stride <= kSmallStrideMax ? 3 : 2;
  }
  __host__ __device__ static constexpr int RingBytes(int stride) {
    return Stages(stride) * kFeatures * stride;
  }
  // Of a row of the warps' sums: lanes of a warp meet no bank twice.
  static constexpr int kSumStride = kFeatures + 4;
  static constexpr int kSumBytes = kWarps * kRows * kSumStride * static_cast<int>(sizeof(float));
  // That a multiprocessor shall hold, as far as its registers and shared memory go.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1200)
  static constexpr int kBlocksOfTwoTiles = 2;
#else
  static constexpr int kBlocksOfTwoTiles = kRowTiles == 4 ? 2 : 3;
#endif
  static constexpr int kBlocks = kFeatureTiles == 2 ? kBlocksOfTwoTiles : (kWarps == 4 ? 4 : 2);
};

// One warp's share of a block's kFeatures features by kRows rows of the input.
template <typename Shape, Encoding kEncoding>
class PackedTile {
 public:
  // `rows` is the first of the features' rows, which follow one another; n of them exist.
  __device__ PackedTile(const PackedProductArgs& args, int first_row, const uint8_t* rows, int64_t row_bytes,
                        int n)
      : args_(args),
        first_row_(first_row),
        rows_(rows),
        row_bytes_(static_cast<int>(row_bytes)),
        n_(n),
        spans_(static_cast<int>(args.weight.k / kSpanElements)),
        warp_(static_cast<int>(threadIdx.x) / kWarpThreads),
        lane_(static_cast<int>(threadIdx.x) % kWarpThreads),
        ring_(&SharedAs<uint8_t>() + warp_ * Shape::RingBytes(Row::kStride)) {}

  // Sums of the warp's spans: of feature 16 m + lane / 4 (+ 8) and row first_row + 8 t + lane % 4 * 2 (+ 1).
  __device__ void Run(typename Shape::Sums& sums) const {
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) CopySpan(warp_ + i * kWarps, i);
    WaitForEarlierKernels();
    LetLaterKernelsBegin();
    Inputs inputs;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
      // Rows that there are not are read as the last one, for nobody.
      const int row = first_row_ + t * kTileRows + lane_ / 4;
      inputs.next[t] = static_cast<const T*>(args_.in) +
                       (row < args_.rows ? row : args_.rows - 1) * args_.weight.k + warp_ * kSpanElements +
                       lane_ % 4 * (Row::kRunScales ? 4 : 8);
    }
    // A warp without a span is not given what lies behind the input.
    if (warp_ < spans_) {
#pragma unroll
      for (int group = 0; group < kGroupsAhead; ++group) LoadInputs(group, inputs);
    }
    int stage = 0;
    for (int span = warp_; span < spans_; span += kWarps) {
      const int before = stage == 0 ? kStages - 1 : stage - 1;
      CopySpan(span + (kStages - 1) * kWarps, before);
      AsyncWait<kStages - 1>();
      __syncwarp();
      Multiply(span, stage, span + kWarps < spans_, inputs, sums);
      __syncwarp();
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    AsyncWait<0>();
  }

 private:
  using Row = PackedRow<kEncoding>;
  using Sums = typename Shape::Sums;
  static constexpr int kWarps = Shape::kWarps;
  static constexpr int kFeatureTiles = Shape::kFeatureTiles;
  static constexpr int kRowTiles = Shape::kRowTiles;
  static constexpr int kFeatures = Shape::kFeatures;
  static_assert(!(Row::kRunScales && Row::kHasOffset));
  static constexpr int kPieces = Row::kStride / kVectorBytes;
  static constexpr int kStageBytes = kFeatures * Row::kStride;
  static constexpr int kStages = Shape::Stages(Row::kStride);
  static constexpr bool kIsAligned = Row::kBytes % kVectorBytes == 0;
  // Pieces of 16 bytes that hold a span, wherever it begins.
  static constexpr int kPiecesOfSpan =
      kIsAligned ? Row::kBytes / kVectorBytes : (Row::kBytes + 14 + kVectorBytes - 1) / kVectorBytes;
  static_assert(kStages >= 2 && kPiecesOfSpan <= kPieces);
  // Inputs are read so many groups before they are multiplied, as far as registers last.
  static constexpr int kGroupsAhead = kRowTiles == 1 ? kGroupsOfSpan : 2;

  // What this lane multiplies of the next groups: of each its eight elements of row
  // first_row + 8 t + lane / 4.
  struct Inputs {
    uint32_t x[kGroupsAhead][kRowTiles][4];
    const T* next[kRowTiles];  // the lane's elements of the span that is read
  };

  // Where row `row` of the features begins, or the last one there is.
  __device__ const uint8_t* RowAt(int row) const { return rows_ + (row < n_ ? row : n_ - 1) * row_bytes_; }
  // How far behind a multiple of 16 a span begins.
  __device__ static int OffsetOf(const uint8_t* span) {
    return kIsAligned ? 0 : static_cast<int>(reinterpret_cast<uintptr_t>(span) % kVectorBytes);
  }

  // One group of asynchronous copies, of nothing behind the last span.
  __device__ void CopySpan(int span, int stage) const {
    if (span < spans_) {
      constexpr int kWide = kPiecesOfSpan / 8 * 8;
#pragma unroll
      for (int first = 0; first < kWide; first += 8) CopyPieces<8>(span, stage, first);
      if constexpr (kWide < kPiecesOfSpan) CopyPieces<kPiecesOfSpan - kWide>(span, stage, kWide);
    }
    AsyncCommit();
  }

  // kCount pieces of every row, from `first` on: neighbouring lanes copy neighbouring pieces.
  template <int kCount>
  __device__ void CopyPieces(int span, int stage, int first) const {
    constexpr int kLanes = kCount > 4 ? 8 : (kCount > 2 ? 4 : kCount);  // for a row
    constexpr int kRows = kWarpThreads / kLanes;
    const int piece = lane_ % kLanes;
    if (piece >= kCount || lane_ / kLanes >= kFeatures) return;
#pragma unroll
    for (int row = 0; row < kFeatures; row += kRows) {
      CopyPiece(row + lane_ / kLanes, first + piece, span, stage);
    }
  }

  __device__ void CopyPiece(int row, int piece, int span, int stage) const {
    const int from = piece * kVectorBytes;
    const uint8_t* begin = RowAt(row) + span * Row::kBytes;
    const int offset = OffsetOf(begin);
    // Nothing behind the span is read: the matrix may end there.
    const int left = kIsAligned ? kVectorBytes : offset + Row::kBytes - from;
    AsyncCopy16(ring_ + stage * kStageBytes + row * Row::kStride + from, begin - offset + from,
                left < 0 ? 0 : (left < kVectorBytes ? left : kVectorBytes));
  }

  // Reads the inputs of a group in place of those of the one kGroupsAhead before it.
  __device__ static void LoadInputs(int group, Inputs& inputs) {
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
      LoadInput(inputs.next[t] + group * kGroupElements, inputs.x[group % kGroupsAhead][t]);
    }
  }
  __device__ static void LoadInput(const T* in, uint32_t (&x)[4]) {
    if constexpr (Row::kRunScales) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint64_t four = *reinterpret_cast<const uint64_t*>(in + 16 * i);
        x[2 * i] = static_cast<uint32_t>(four);
        x[2 * i + 1] = static_cast<uint32_t>(four >> 32);
      }
    } else {
      const auto eight = *reinterpret_cast<const SixteenBytes<uint32_t>*>(in);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = eight.at[i];
    }
  }

  // `more`: the warp has another span.
  __device__ void Multiply(int span, int stage, bool more, Inputs& inputs, Sums& sums) const {
    const auto row_at = [&](int row) {
      const int offset = OffsetOf(RowAt(row) + span * Row::kBytes);
      return Row(ring_ + stage * kStageBytes + row * Row::kStride + offset);
    };
    const int first = lane_ / 4;
    if constexpr (kFeatureTiles == 1) {
      const Row rows[1][2] = {{row_at(first), row_at(first + 8)}};
      MultiplyRows(rows, more, inputs, sums);
    } else {
      static_assert(kFeatureTiles == 2);
      const Row rows[2][2] = {{row_at(first), row_at(first + 8)}, {row_at(first + 16), row_at(first + 24)}};
      MultiplyRows(rows, more, inputs, sums);
    }
  }

  __device__ void MultiplyRows(const Row (&rows)[kFeatureTiles][2], bool more, Inputs& inputs,
                               Sums& sums) const {
#pragma unroll
    for (int group = 0; group < kGroupsOfSpan; ++group) {
      MultiplyGroup(group, rows, inputs.x[group % kGroupsAhead], sums);
      const int next = group + kGroupsAhead;
      if (next == kGroupsOfSpan && more) {
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t) inputs.next[t] += kWarps * kSpanElements;
      }
      // Behind the last span its inputs again, for nobody.
      LoadInputs(next % kGroupsOfSpan, inputs);
    }
  }

  __device__ void MultiplyGroup(int group, const Row (&rows)[kFeatureTiles][2],
                                const uint32_t (&x)[kRowTiles][4], Sums& sums) const {
    float input_sums[kRowTiles][2];
    if constexpr (Row::kHasOffset) {
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) SumInput(x[t], input_sums[t]);
    }
#pragma unroll
    for (int m = 0; m < kFeatureTiles; ++m) {
      uint32_t upper[4];
      uint32_t lower[4];
      const GroupScale scales[2] = {rows[m][0].Group(group, lane_ % 4, bits_, upper),
                                    rows[m][1].Group(group, lane_ % 4, bits_, lower)};
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        float sum[4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Mma16816<T>(sum, {upper[2 * half], lower[2 * half], upper[2 * half + 1], lower[2 * half + 1]},
                      {x[t][2 * half], x[t][2 * half + 1]});
          if (half == 0 && !Row::kRunScales) continue;
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const GroupScale& scale = scales[c / 2];
            sums[m][t][c] = fmaf(scale.scale[Row::kRunScales ? half : 0], sum[c], sums[m][t][c]);
            if constexpr (Row::kHasOffset) {
              sums[m][t][c] = fmaf(-scale.offset, input_sums[t][c % 2], sums[m][t][c]);
            }
            sum[c] = 0;
          }
        }
      }
    }
  }

  // The sums of a group's inputs, of rows lane % 4 * 2 and the one after it.
  __device__ static void SumInput(const uint32_t (&x)[4], float (&sums)[2]) {
    constexpr uint32_t kOnes = 0x3f803f80u;  // 1 and 1
    float sum[4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Mma16816<T>(sum, {kOnes, kOnes, kOnes, kOnes}, {x[2 * half], x[2 * half + 1]});
    }
    sums[0] = sum[0];
    sums[1] = sum[1];
  }

  const PackedProductArgs& args_;
  const int first_row_;
  const uint8_t* const rows_;
  const int row_bytes_;  // 32 rows are less than 2 GiB
  const int n_;
  const int spans_;
  const int warp_;
  const int lane_;
  uint8_t* const ring_;
  const UnpackBits bits_;
};

// The block's features where no tile is for them: where parts meet, or of a part in another encoding.
[[gnu::noinline]] __device__ void MultiplyRuns(const PackedProductArgs& args, int first_row, int rows,
                                               int64_t first, int n) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  for (int f = static_cast<int>(threadIdx.x) / kWarpThreads; f < n; f += warps) {
    for (int row = first_row; row < first_row + rows; row += kTileRows) {
      float sums[kTileRows] = {};
      for (int run = lane; run < static_cast<int>(args.weight.k / packed::kRunElements);
           run += kWarpThreads) {
        float weights[packed::kRunElements];
        DecodeRun(args.weight, first + f, run, weights);
#pragma unroll
        for (int r = 0; r < kTileRows; ++r) {
          if (row + r >= args.rows) break;
          const T* in = static_cast<const T*>(args.in) + (row + r) * args.weight.k +
                        int64_t{run} * packed::kRunElements;
#pragma unroll
          for (int i = 0; i < packed::kRunElements; i += kVectorElements) {
            float x[kVectorElements];
            LoadEight(in + i, kVectorElements, true, x);
#pragma unroll
            for (int j = 0; j < kVectorElements; ++j) sums[r] = fmaf(weights[i + j], x[j], sums[r]);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) {
        const float sum = WarpReduce(sums[r], Sum());
        if (lane == r && row + r < args.rows) StoreOutput(args, row + r, first + f, sum);
      }
    }
  }
}

// Adds the warps' sums, and writes them.
template <typename Shape>
__device__ inline void Deliver(const PackedProductArgs& args, int first_row, int64_t first, int n,
                               const typename Shape::Sums& sums) {
  constexpr int kStride = Shape::kSumStride;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads;
  const int lane = thread % kWarpThreads;
  float* shared = &SharedAs<float>();
  __syncthreads();  // no warp reads spans any more
#pragma unroll
  for (int m = 0; m < Shape::kFeatureTiles; ++m) {
#pragma unroll
    for (int t = 0; t < Shape::kRowTiles; ++t) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int row = t * kTileRows + lane % 4 * 2 + c % 2;
        const int feature = m * kTileFeatures + lane / 4 + c / 2 * 8;
        shared[(warp * Shape::kRows + row) * kStride + feature] = sums[m][t][c];
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < Shape::kFeatures * Shape::kRows; i += Shape::kThreads) {
    const int row = i / Shape::kFeatures;
    const int feature = i % Shape::kFeatures;
    if (first_row + row >= args.rows || feature >= n) continue;
    float sum = 0;
#pragma unroll
    for (int from = 0; from < Shape::kWarps; ++from)
      sum += shared[(from * Shape::kRows + row) * kStride + feature];
    StoreOutput(args, first_row + row, first + feature, sum);
  }
}

// grid: [tiles of kFeatures features][tiles of kRows rows]
template <typename Shape>
__global__ __launch_bounds__(Shape::kThreads, Shape::kBlocks) void PackedTensorKernel(
    const __grid_constant__ PackedProductArgs args) {
  constexpr int kFeatures = Shape::kFeatures;
  const unsigned row_tiles = static_cast<unsigned>(args.rows + Shape::kRows - 1) / Shape::kRows;
  const int first_row = static_cast<int>(blockIdx.x % row_tiles) * Shape::kRows;
  const int64_t first = int64_t{blockIdx.x / row_tiles} * kFeatures;
  const int n = static_cast<int>(args.weight.n - first < kFeatures ? args.weight.n - first : kFeatures);
  const int64_t row = args.weight.first + first;
  const int which = PartOf(args.weight, row);
  if (which != PartOf(args.weight, row + n - 1)) {
    return MultiplyRuns(args, first_row, Shape::kRows, first, n);
  }
  const PackedPart& part = args.weight.parts[which];
  const uint8_t* rows = RowAt(args.weight, part, row);

  typename Shape::Sums sums = {};
  switch (part.encoding) {
    case Encoding::kQ4_0:
      PackedTile<Shape, Encoding::kQ4_0>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ4_1:
      PackedTile<Shape, Encoding::kQ4_1>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ5_0:
      PackedTile<Shape, Encoding::kQ5_0>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ5_1:
      PackedTile<Shape, Encoding::kQ5_1>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ8_0:
      PackedTile<Shape, Encoding::kQ8_0>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ4_K:
      PackedTile<Shape, Encoding::kQ4_K>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ5_K:
      PackedTile<Shape, Encoding::kQ5_K>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ6_K:
      PackedTile<Shape, Encoding::kQ6_K>(args, first_row, rows, part.row_bytes, n).Run(sums);
      break;
    default:
      return MultiplyRuns(args, first_row, Shape::kRows, first, n);
  }
  Deliver<Shape>(args, first_row, first, n, sums);
}

// PackedRow::kStride of an encoding; 0: there is none.
int StrideOf(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ4_0:
      return PackedRow<Encoding::kQ4_0>::kStride;
    case Encoding::kQ4_1:
      return PackedRow<Encoding::kQ4_1>::kStride;
    case Encoding::kQ5_0:
      return PackedRow<Encoding::kQ5_0>::kStride;
    case Encoding::kQ5_1:
      return PackedRow<Encoding::kQ5_1>::kStride;
    case Encoding::kQ8_0:
      return PackedRow<Encoding::kQ8_0>::kStride;
    case Encoding::kQ4_K:
      return PackedRow<Encoding::kQ4_K>::kStride;
    case Encoding::kQ5_K:
      return PackedRow<Encoding::kQ5_K>::kStride;
    case Encoding::kQ6_K:
      return PackedRow<Encoding::kQ6_K>::kStride;
    default:
      return 0;
  }
}

template <typename Shape>
cudaError_t LaunchTiles(const PackedProductArgs& args, KernelStream stream) {
  static_assert(std::max({Shape::kSumBytes, Shape::kWarps * Shape::RingBytes(kSmallStrideMax),
                          Shape::kWarps * Shape::RingBytes(kStrideMax)}) <= kSharedBytesOfAnyBlock);
  int shared_bytes = Shape::kSumBytes;
  for (int i = 0; i < args.weight.n_parts; ++i) {
    const int stride = StrideOf(args.weight.parts[i].encoding);
    shared_bytes = std::max(shared_bytes, Shape::kWarps * Shape::RingBytes(stride));
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(CeilDivide(args.weight.n, Shape::kFeatures) *
                                          CeilDivide(args.rows, Shape::kRows)));
  shape.block = dim3(Shape::kThreads);
  shape.shared_bytes = static_cast<size_t>(shared_bytes);
  return Launch(PackedTensorKernel<Shape>, shape, stream, args);
}

cudaError_t LaunchManyFeatures(const PackedProductArgs& args, KernelStream stream) {
  // More rows read more of the input for each feature: they share it between more features.
  if (args.rows <= kTileRows) return LaunchTiles<BlockShape<4, 1, 1>>(args, stream);
  if (args.rows <= 2 * kTileRows) return LaunchTiles<BlockShape<4, 2, 2>>(args, stream);
  return LaunchTiles<BlockShape<4, 2, 4>>(args, stream);
}

cudaError_t LaunchFewFeatures(const PackedProductArgs& args, KernelStream stream) {
  if (args.rows <= kTileRows) return LaunchTiles<BlockShape<8, 1, 1>>(args, stream);
  if (args.rows <= 2 * kTileRows) return LaunchTiles<BlockShape<8, 1, 2>>(args, stream);
  return LaunchTiles<BlockShape<8, 1, 4>>(args, stream);
}

}  // namespace

bool HasPackedTensorProduct(DType type, const PackedProductArgs& args) {
  if (type != DType::kBF16 || args.weight.k % kSpanElements != 0 || args.rows > kPackedTensorRowsMax ||
      !AllAligned(reinterpret_cast<uint64_t>(args.in))) {
    return false;
  }
  for (int i = 0; i < args.weight.n_parts; ++i) {
    if (StrideOf(args.weight.parts[i].encoding) == 0) return false;
  }
  return true;
}

cudaError_t LaunchPackedTensorProduct(const PackedProductArgs& args, int32_t processors,
                                      KernelStream stream) {
  PackedProductArgs in = args;
  in.aligned = true;
  in.type = DType::kBF16;
  // Where there are few features, all of the device's warps shall have a share of each. Decided by nothing
  // else, so that a row's result is the same whichever rows come with it (where parts begin at multiples of
  // 32 features: blocks in which parts meet sum in another order).
  const bool few = args.weight.n < int64_t{kTileFeatures} * BlockShape<4, 1, 1>::kBlocks * processors;
  return few ? LaunchFewFeatures(in, stream) : LaunchManyFeatures(in, stream);
}

}  // namespace spillway::device::cuda
