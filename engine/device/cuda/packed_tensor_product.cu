// Products of packed weights with a decode step's rows on the tensor cores, bf16 and f16. A block takes 16 or
// 32 features of the matrix; its warps take spans of their rows in turn, each through shared memory of its
// own with several spans in flight, and their sums are added at the end. So weights are read once, as they
// are packed, however many rows there are, and a weight costs about one instruction to unpack.
#include <algorithm>
#include <climits>

#include "engine/device/cuda/block_reduce.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/packed_matrix.h"
#include "engine/device/cuda/packed_result.h"
#include "engine/device/cuda/packed_tile.h"
#include "engine/device/cuda/tensor_core.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kTileFeatures = 16;
constexpr int kTileRows = 8;
// Of shared memory, of a warp, for each tile of features: two or three spans of every encoding.
constexpr int kRingBytes = 2 * kTileFeatures * 288;

// kFeatureTiles * 16 features by kRowTiles * 8 rows of the input.
template <typename T, Encoding kEncoding, int kFeatureTiles, int kRowTiles>
class PackedTile {
 public:
  // `rows` is the first of the features' rows, which follow one another; n of them exist.
  __device__ PackedTile(const PackedProductArgs& args, const uint8_t* rows, int64_t row_bytes, int n)
      : args_(args),
        rows_(rows),
        row_bytes_(row_bytes),
        n_(n),
        warp_(static_cast<int>(threadIdx.x) / kWarpThreads),
        lane_(static_cast<int>(threadIdx.x) % kWarpThreads),
        ring_(&SharedAs<uint8_t>() + warp_ * kFeatureTiles * kRingBytes) {}

  // Sums of the warp's spans: of feature 16 m + lane / 4 (+ 8) and row 8 t + lane % 4 * 2 (+ 1).
  __device__ void Run(float (&sums)[kFeatureTiles][kRowTiles][4]) {
    const int spans = static_cast<int>(args_.weight.k / kSpanElements);
#pragma unroll
    for (int i = 0; i < kStages - 1; ++i) CopySpan(warp_ + i * kWarps, spans, i);
    int stage = 0;
    for (int span = warp_; span < spans; span += kWarps) {
      const int before = stage == 0 ? kStages - 1 : stage - 1;
      CopySpan(span + (kStages - 1) * kWarps, spans, before);
      Inputs inputs;
      if constexpr (kRowTiles == 1) inputs.Load(*this, span);
      AsyncWait<kStages - 1>();
      __syncwarp();
      Multiply(span, stage, inputs, sums);
      __syncwarp();
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    AsyncWait<0>();
  }

 private:
  using Row = PackedRow<T, kEncoding>;
  static constexpr int kFeatures = kFeatureTiles * kTileFeatures;
  static constexpr int kScales = Row::kRunScales ? 2 : 1;  // of a group
  static constexpr int kPieces = Row::kStride / kVectorBytes;
  static constexpr int kStageBytes = kFeatures * Row::kStride;
  static constexpr int kStages = kFeatureTiles * kRingBytes / kStageBytes;
  static constexpr bool kIsAligned = Row::kBytes % kVectorBytes == 0;
  // Pieces of 16 bytes that hold a span, wherever it begins.
  static constexpr int kPiecesOfSpan =
      kIsAligned ? Row::kBytes / kVectorBytes : (Row::kBytes + 14 + kVectorBytes - 1) / kVectorBytes;
  static_assert(kStages >= 2 && kPiecesOfSpan <= kPieces);

  // A span's inputs, where there are registers for all of them.
  struct Inputs {
    uint32_t x[kRowTiles == 1 ? kGroupsOfSpan : 1][4];

    __device__ void Load(const PackedTile& tile, int span) {
#pragma unroll
      for (int group = 0; group < kGroupsOfSpan; ++group) tile.LoadInput(span, group, 0, x[group]);
    }
  };

  // Where row `row` of the features begins, or the last one there is.
  __device__ const uint8_t* RowAt(int row) const { return rows_ + (row < n_ ? row : n_ - 1) * row_bytes_; }
  // How far behind a multiple of 16 a span begins.
  __device__ static int OffsetOf(const uint8_t* span) {
    return kIsAligned ? 0 : static_cast<int>(reinterpret_cast<uintptr_t>(span) % kVectorBytes);
  }

  // One group of asynchronous copies, of nothing behind the last span.
  __device__ void CopySpan(int span, int spans, int stage) {
    if (span < spans) {
#pragma unroll
      for (int first = 0; first < kFeatures * kPiecesOfSpan; first += kWarpThreads) {
        CopyPiece(first + lane_, span, ring_ + stage * kStageBytes);
      }
    }
    AsyncCommit();
  }

  __device__ void CopyPiece(int piece, int span, uint8_t* to) const {
    if (piece >= kFeatures * kPiecesOfSpan) return;
    const int row = piece / kPiecesOfSpan;
    const int from = piece % kPiecesOfSpan * kVectorBytes;
    const uint8_t* begin = RowAt(row) + int64_t{span} * Row::kBytes;
    const int offset = OffsetOf(begin);
    // Nothing behind the span is read: the matrix may end there.
    const int left = kIsAligned ? kVectorBytes : offset + Row::kBytes - from;
    AsyncCopy16(to + row * Row::kStride + from, begin - offset + from,
                left < 0 ? 0 : (left < kVectorBytes ? left : kVectorBytes));
  }

  // What this lane multiplies of a group: its eight elements of row 8 t + lane / 4, or 0 where there is none.
  __device__ void LoadInput(int span, int group, int t, uint32_t (&x)[4]) const {
    const int row = t * kTileRows + lane_ / 4;
    const int pair = lane_ % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = 0;
    if (row >= args_.rows) return;
    const T* in = static_cast<const T*>(args_.in) + row * args_.weight.k + span * kSpanElements +
                  group * kGroupElements;
    if constexpr (Row::kRunScales) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint64_t four = *reinterpret_cast<const uint64_t*>(in + 16 * i + 4 * pair);
        x[2 * i] = static_cast<uint32_t>(four);
        x[2 * i + 1] = static_cast<uint32_t>(four >> 32);
      }
    } else {
      const auto eight = *reinterpret_cast<const SixteenBytes<uint32_t>*>(in + 8 * pair);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = eight.at[i];
    }
  }

  __device__ void Multiply(int span, int stage, const Inputs& inputs,
                           float (&sums)[kFeatureTiles][kRowTiles][4]) const {
    const auto row_at = [&](int row) {
      const int offset = OffsetOf(RowAt(row) + int64_t{span} * Row::kBytes);
      return Row(ring_ + stage * kStageBytes + row * Row::kStride + offset);
    };
    const int first = lane_ / 4;
    if constexpr (kFeatureTiles == 1) {
      const Row rows[1][2] = {{row_at(first), row_at(first + 8)}};
      MultiplyRows(span, rows, inputs, sums);
    } else {
      static_assert(kFeatureTiles == 2);
      const Row rows[2][2] = {{row_at(first), row_at(first + 8)}, {row_at(first + 16), row_at(first + 24)}};
      MultiplyRows(span, rows, inputs, sums);
    }
  }

  __device__ void MultiplyRows(int span, const Row (&rows)[kFeatureTiles][2], const Inputs& inputs,
                               float (&sums)[kFeatureTiles][kRowTiles][4]) const {
    // Unrolled as far as registers last.
#pragma unroll(kRowTiles == 1 ? kGroupsOfSpan / 2 : 1)
    for (int two = 0; two < kGroupsOfSpan; two += 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t x[kRowTiles][4];
#pragma unroll
        for (int t = 0; t < kRowTiles; ++t) {
          if constexpr (kRowTiles == 1) {
#pragma unroll
            for (int j = 0; j < 4; ++j) x[t][j] = inputs.x[two + i][j];
          } else {
            LoadInput(span, two + i, t, x[t]);
          }
        }
        MultiplyGroup(two + i, rows, x, sums);
      }
    }
  }

  __device__ void MultiplyGroup(int group, const Row (&rows)[kFeatureTiles][2],
                                const uint32_t (&x)[kRowTiles][4],
                                float (&sums)[kFeatureTiles][kRowTiles][4]) const {
    float excess[kRowTiles][kScales][2];
    float input_sums[kRowTiles][2];
    if constexpr (Row::kMagic) {
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) SumInput(x[t], excess[t], input_sums[t]);
    }
#pragma unroll
    for (int m = 0; m < kFeatureTiles; ++m) {
      uint32_t upper[4];
      uint32_t lower[4];
      const GroupScale scales[2] = {rows[m][0].Group(group, lane_ % 4, args_.magic, upper),
                                    rows[m][1].Group(group, lane_ % 4, args_.magic, lower)};
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
        float sum[4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (half == 0 || Row::kRunScales) {
#pragma unroll
            for (int c = 0; c < 4; ++c)
              sum[c] = Row::kMagic ? excess[t][kScales == 2 ? half : 0][c % 2] : 0.0F;
          }
          Mma16816<T>(sum, {upper[2 * half], lower[2 * half], upper[2 * half + 1], lower[2 * half + 1]},
                      {x[t][2 * half], x[t][2 * half + 1]});
          if (half == 0 && !Row::kRunScales) continue;
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const float scale = scales[c / 2].scale[kScales == 2 ? half : 0];
            sums[m][t][c] = fmaf(scale, sum[c], sums[m][t][c]);
          }
        }
        if constexpr (Row::kHasMin) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            sums[m][t][c] = fmaf(-scales[c / 2].min, input_sums[t][c % 2], sums[m][t][c]);
          }
        }
      }
    }
  }

  // The sums of inputs by which a group's products come out too large, because of kZero and Magic, by scale;
  // and of all of the group. Of rows lane % 4 * 2 and the one after it.
  __device__ static void SumInput(const uint32_t (&x)[4], float (&excess)[kScales][2], float (&all)[2]) {
    constexpr uint32_t kOnes = std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;  // 1 and 1
    constexpr float kExcess = Row::kZero + Magic<T>::kValue;
    float sum[4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Mma16816<T>(sum, {kOnes, kOnes, kOnes, kOnes}, {x[2 * half], x[2 * half + 1]});
      if (half == 0 && !Row::kRunScales) continue;
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        excess[kScales == 2 ? half : 0][c] = -kExcess * sum[c];
        all[c] = sum[c];
        if (Row::kRunScales) sum[c] = 0;
      }
    }
  }

  const PackedProductArgs& args_;
  const uint8_t* const rows_;
  const int64_t row_bytes_;
  const int n_;
  const int warp_;
  const int lane_;
  uint8_t* const ring_;
};

// The block's features where no tile is for them: where parts meet, or of a part in another encoding.
template <typename T>
[[gnu::noinline]] __device__ void MultiplyRuns(const PackedProductArgs& args, int64_t first, int n) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  for (int f = static_cast<int>(threadIdx.x) / kWarpThreads; f < n; f += kWarps) {
    for (int row = 0; row < args.rows; row += kTileRows) {
      float sums[kTileRows] = {};
      for (int64_t run = lane; run < args.weight.k / packed::kRunElements; run += kWarpThreads) {
        float weights[packed::kRunElements];
        DecodeRun(args.weight.data, args.weight.first + first + f, run, weights);
#pragma unroll
        for (int r = 0; r < kTileRows; ++r) {
          if (row + r >= args.rows) break;
          const T* in =
              static_cast<const T*>(args.in) + (row + r) * args.weight.k + run * packed::kRunElements;
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
template <int kFeatureTiles, int kRowTiles>
__device__ inline void Deliver(const PackedProductArgs& args, int64_t first, int n,
                               const float (&sums)[kFeatureTiles][kRowTiles][4]) {
  constexpr int kFeatures = kFeatureTiles * kTileFeatures;
  constexpr int kRows = kRowTiles * kTileRows;
  constexpr int kStride = kFeatures + 4;  // lanes of a warp meet no bank twice
  static_assert(kRows * kStride * kWarps * 4 <= kWarps * kFeatureTiles * kRingBytes);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpThreads;
  const int lane = thread % kWarpThreads;
  float* shared = &SharedAs<float>();
  __syncthreads();  // no warp reads spans any more
#pragma unroll
  for (int m = 0; m < kFeatureTiles; ++m) {
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int row = t * kTileRows + lane % 4 * 2 + c % 2;
        const int feature = m * kTileFeatures + lane / 4 + c / 2 * 8;
        shared[(warp * kRows + row) * kStride + feature] = sums[m][t][c];
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < kFeatures * kRows; i += kThreads) {
    const int row = i / kFeatures;
    const int feature = i % kFeatures;
    if (row >= args.rows || feature >= n) continue;
    float sum = 0;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) sum += shared[(from * kRows + row) * kStride + feature];
    StoreOutput(args, row, first + feature, sum);
  }
}

// grid: [tiles of kFeatureTiles * 16 features]
template <typename T, int kFeatureTiles, int kRowTiles>
__global__ __launch_bounds__(kThreads, kFeatureTiles == 1 ? 4 : 3) void PackedTensorKernel(
    const __grid_constant__ PackedProductArgs args) {
  constexpr int kFeatures = kFeatureTiles * kTileFeatures;
  const int64_t first = int64_t{blockIdx.x} * kFeatures;
  const int n = static_cast<int>(args.weight.n - first < kFeatures ? args.weight.n - first : kFeatures);
  const PackedDirectory& directory = *reinterpret_cast<const PackedDirectory*>(args.weight.data);
  const int64_t feature = args.weight.first + first;
  int which = 0;
  while (which + 1 < directory.n_parts && feature >= directory.parts[which + 1].first) ++which;
  const int64_t end = which + 1 < directory.n_parts ? directory.parts[which + 1].first : INT64_MAX;
  if (feature + n > end) return MultiplyRuns<T>(args, first, n);
  const PackedPart& part = directory.parts[which];
  const uint8_t* rows = args.weight.data + part.offset_bytes + (feature - part.first) * part.row_bytes;

  float sums[kFeatureTiles][kRowTiles][4] = {};
  switch (part.encoding) {
    case Encoding::kQ4_0:
      PackedTile<T, Encoding::kQ4_0, kFeatureTiles, kRowTiles>(args, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ8_0:
      PackedTile<T, Encoding::kQ8_0, kFeatureTiles, kRowTiles>(args, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ4_K:
      PackedTile<T, Encoding::kQ4_K, kFeatureTiles, kRowTiles>(args, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ5_K:
      PackedTile<T, Encoding::kQ5_K, kFeatureTiles, kRowTiles>(args, rows, part.row_bytes, n).Run(sums);
      break;
    case Encoding::kQ6_K:
      PackedTile<T, Encoding::kQ6_K, kFeatureTiles, kRowTiles>(args, rows, part.row_bytes, n).Run(sums);
      break;
    default:
      return MultiplyRuns<T>(args, first, n);
  }
  Deliver<kFeatureTiles, kRowTiles>(args, first, n, sums);
}

template <typename T, int kFeatureTiles, int kRowTiles>
cudaError_t LaunchTiles(const PackedProductArgs& args, cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(CeilDivide(args.weight.n, kFeatureTiles * kTileFeatures)));
  shape.block = dim3(kThreads);
  shape.shared_bytes = size_t{kWarps} * kFeatureTiles * kRingBytes;
  return Launch(PackedTensorKernel<T, kFeatureTiles, kRowTiles>, shape, stream, args);
}

template <typename T>
cudaError_t LaunchRows(PackedProductArgs args, cudaStream_t stream) {
  args.magic = Magic<T>::kTwo;
  // More rows read more of the input for each feature: they share it between more features.
  if (args.rows <= kTileRows) return LaunchTiles<T, 1, 1>(args, stream);
  if (args.rows <= 2 * kTileRows) return LaunchTiles<T, 2, 2>(args, stream);
  return LaunchTiles<T, 2, 4>(args, stream);
}

bool HasTile(Encoding encoding) {
  switch (encoding) {
    case Encoding::kQ4_0:
    case Encoding::kQ8_0:
    case Encoding::kQ4_K:
    case Encoding::kQ5_K:
    case Encoding::kQ6_K:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool HasPackedTensorProduct(DType type, Encoding encoding, const PackedProductArgs& args) {
  return type != DType::kF32 && HasTile(encoding) && args.weight.k % kSpanElements == 0 &&
         args.rows <= kPackedTensorRowsMax && AllAligned(reinterpret_cast<uint64_t>(args.in));
}

cudaError_t LaunchPackedTensorProduct(DType type, const PackedProductArgs& args, cudaStream_t stream) {
  PackedProductArgs in = args;
  in.aligned = true;
  in.type = type;
  return type == DType::kBF16 ? LaunchRows<__nv_bfloat16>(in, stream) : LaunchRows<__half>(in, stream);
}

}  // namespace spillway::device::cuda
