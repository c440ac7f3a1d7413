// Products over packed panels, over any simd_*.h and element_*.h. One sum per output in order of k, whatever
// the number of rows: a row's result has the same bits in every batch, and those of oneDNN's AVX-512
// products.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_PRODUCT_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_PRODUCT_H_

namespace spillway::device {
namespace {

constexpr int kStripVectors = static_cast<int>(kStripColumns / kLanes);
// Rows of one inner block: with one strip of columns they fill the accumulators.
constexpr int kBlockRowsMax = kLanes == 4 ? 3 : 6;

// The columns [strips * 16] of one inner block of rows: sums[r, c] (+)= sum over groups of in[r] * panel[c].
// `panel` advances by panel_step elements a group. Rows of `in` are in_stride elements apart.
struct Block {
  const T* in;
  int64_t in_stride;
  const T* panel;
  int64_t panel_step;
  int64_t groups;
  float* sums;
  int64_t sums_stride;
  bool resume;    // add to what sums holds
  int64_t ahead;  // elements ahead of `panel` that are fetched on the way; 0: none
};

template <int kRows, int kStrips, bool kFetch>
void MultiplyBlock(const Block& block) {
  constexpr int kVectors = kStrips * kStripVectors;
  F sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) {
      sums[r][c] = block.resume ? Load(block.sums + r * block.sums_stride + c * kLanes) : Zero();
    }
  }
  const T* in = block.in;
  const int64_t in_stride = block.in_stride;
  const T* panel = block.panel;
  const T* const end = panel + block.groups * block.panel_step;
  for (; panel != end; panel += block.panel_step, in += kGroup) {
    B columns[kVectors];
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) {
      constexpr int64_t kLineElements = 64 / static_cast<int64_t>(sizeof(T));
      columns[c] = LoadB(panel + c * kLanes * kGroup);
      if (kFetch && c * kLanes * kGroup % kLineElements == 0) {
        __builtin_prefetch(panel + block.ahead + c * kLanes * kGroup, 0, 2);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const A row = SplatA(in + r * in_stride);
#pragma GCC unroll 16
      for (int c = 0; c < kVectors; ++c) sums[r][c] = MultiplyAdd(row, columns[c], sums[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) Store(block.sums + r * block.sums_stride + c * kLanes, sums[r][c]);
  }
}

// The most strips that a block of `rows` rows has registers for: 4, 2 or 1.
constexpr int StripsAtOnce(int rows) {
  const int fit = kAccumulators / (rows * kStripVectors);
  return fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

template <int kRows, bool kFetch>
SPILLWAY_SIMD void MultiplyStripsAs(Block block, int64_t strips) {
  constexpr int kAtOnce = StripsAtOnce(kRows);
  const auto advance = [&block](int64_t by) {
    block.panel += by * kStripColumns * kGroup;
    block.sums += by * kStripColumns;
  };
  if constexpr (kAtOnce == 4) {
    if (strips >= 4) {
      MultiplyBlock<kRows, 4, kFetch>(block);
      strips -= 4;
      advance(4);
    }
  }
  if constexpr (kAtOnce >= 2) {
    for (; strips >= 2; strips -= 2) {
      MultiplyBlock<kRows, 2, kFetch>(block);
      advance(2);
    }
  }
  for (; strips >= 1; --strips) {
    MultiplyBlock<kRows, 1, kFetch>(block);
    advance(1);
  }
}

template <int kRows>
SPILLWAY_SIMD void MultiplyStrips(const Block& block, int64_t strips) {
  if (block.ahead == 0) {
    MultiplyStripsAs<kRows, false>(block, strips);
  } else {
    MultiplyStripsAs<kRows, true>(block, strips);
  }
}

void MultiplyRows(int64_t rows, const Block& block, int64_t strips) {
  switch (rows) {
    case 1:
      return MultiplyStrips<1>(block, strips);
    case 2:
      return MultiplyStrips<2>(block, strips);
    case 3:
      return MultiplyStrips<3>(block, strips);
    default:
      break;
  }
  if constexpr (kBlockRowsMax > 3) {
    switch (rows) {
      case 4:
        return MultiplyStrips<4>(block, strips);
      case 5:
        return MultiplyStrips<5>(block, strips);
      default:
        return MultiplyStrips<6>(block, strips);
    }
  }
}

// What is fetched ahead of a run: enough lines in flight for one core's share of memory's rate. Of a part of
// a panel only some lines are read, so that they lie further ahead.
constexpr int64_t kAheadElements = 4096 / static_cast<int64_t>(sizeof(T));
constexpr int64_t kPanelStrips = kPanelColumns / kStripColumns;

// All rows of `block` (sums and in reach over all of them), in inner blocks of nearly equal height. The panel
// is read in one run of memory. Where it is read once, the same run is fetched some way ahead; where more
// blocks of rows read it, the last fetches what follows in memory, which the first of the next run then finds
// near.
void MultiplyAllRows(int64_t rows, const Block& block, int64_t strips) {
  const int64_t blocks = (rows + kBlockRowsMax - 1) / kBlockRowsMax;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = rows * i / blocks;
    Block part = block;
    part.ahead = i + 1 < blocks || block.ahead == 0 ? 0
                 : blocks == 1                      ? kAheadElements * kPanelStrips / strips
                                                    : block.ahead;
    part.in += begin * block.in_stride;
    part.sums += begin * block.sums_stride;
    MultiplyRows(rows * (i + 1) / blocks - begin, part, strips);
  }
}

// Writes `columns` finished sums of one row: bias, activation, conversion or addition.
void FinishRow(const ProductArgs& args, int64_t row, int64_t column, const float* sums, int64_t columns) {
  const int64_t at = row * args.n + column;
  const float* bias = args.bias == nullptr ? nullptr : args.bias + column;
  const auto finish = [&](int64_t i, int64_t n) {
    F x = LoadFirst(sums + i, n);
    if (bias != nullptr) x = Add(x, LoadFirst(bias + i, n));
    x = ActivateAny(args.activation, x);
    if (args.out_is_f32) {
      float* out = static_cast<float*>(args.out) + at + i;
      StoreFirst(out, args.accumulate ? Add(LoadFirst(out, n), x) : x, n);
    } else {
      StoreFirstT(static_cast<T*>(args.out) + at + i, x, n);
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) finish(i, kLanes);
  if (i < columns) finish(i, columns - i);
}

// Rows whose sums are kept at once, and groups of k after which the rows take turns, so that the part of the
// panel in use (128 KiB) stays in the second-level cache however large k is.
constexpr int64_t kSumRows = 48;
constexpr int64_t kTurnGroups = 512;

void MultiplyRun(const ProductArgs& args, int64_t column, int64_t columns, int64_t strips) {
  const T* panel = static_cast<const T*>(args.weight) + column / kPanelColumns * args.panel_stride +
                   column % kPanelColumns * kGroup;
  alignas(64) float sums[kSumRows * kPanelColumns];
  for (int64_t row = 0; row < args.rows; row += kSumRows) {
    const int64_t rows = args.rows - row < kSumRows ? args.rows - row : kSumRows;
    const T* in = static_cast<const T*>(args.in) + row * args.k;
    Block block{in, args.k, panel, kPanelColumns * kGroup, 0, sums, kPanelColumns, false, 0};
    const int64_t groups = args.k / kGroup;
    for (int64_t done = 0; done < groups; done += kTurnGroups) {
      block.groups = groups - done < kTurnGroups ? groups - done : kTurnGroups;
      block.resume = done > 0;
      block.ahead = block.groups * block.panel_step;
      MultiplyAllRows(rows, block, strips);
      block.in += block.groups * kGroup;
      block.panel += block.groups * block.panel_step;
    }
    if constexpr (kGroup > 1) {
      if (args.k % kGroup != 0) {
        // The last value of an odd k has no neighbour in its row.
        T last[kSumRows * kGroup] = {};
        for (int64_t r = 0; r < rows; ++r) last[r * kGroup] = in[r * args.k + args.k - 1];
        block.in = last;
        block.in_stride = kGroup;
        block.groups = 1;
        block.ahead = 0;
        block.resume = groups > 0;
        MultiplyAllRows(rows, block, strips);
      }
    }
    for (int64_t r = 0; r < rows; ++r) FinishRow(args, row + r, column, sums + r * kPanelColumns, columns);
  }
}

void MultiplyColumns(const ProductArgs& args, int64_t strip_begin, int64_t strip_end) {
  for (int64_t strip = strip_begin; strip < strip_end;) {
    const int64_t panel_end = (strip / kPanelStrips + 1) * kPanelStrips;
    const int64_t end = panel_end < strip_end ? panel_end : strip_end;
    const int64_t column = strip * kStripColumns;
    const int64_t left = args.n - column;
    const int64_t width = (end - strip) * kStripColumns;
    MultiplyRun(args, column, left < width ? left : width, end - strip);
    strip = end;
  }
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_PRODUCT_H_
