// Softmax attention of one tile of queries over a run of keys, in the manner of FlashAttention (Dao et al.
// 2022): keys in tiles of kKeyTile, the maximum, the sum and the weighted values carried from tile to tile. K
// and V of a key tile are laid out as panels and multiplied by the products' own blocks. Over any simd_*.h
// and element_*.h.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_ATTENTION_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_ATTENTION_H_

namespace spillway::device {
namespace {

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Query rows that share their keys and are multiplied with K and V where they lie; and the keys of one step
// of that. More rows repay the panels.
constexpr int64_t kFewQueries = 8;
constexpr int64_t kFewKeys = 128;
static_assert(kFewQueries * kFewKeys <= kQueryTile * kKeyTile);

// The rows of K and V of one key tile: where each key's d_head values lie.
struct KeyTile {
  const T* k[kFewKeys];
  const T* v[kFewKeys];
  int64_t keys;
};

void LocateKeys(const AttentionTile& tile, int64_t begin, int64_t end, KeyTile* out) {
  out->keys = end - begin;
  int64_t block = (begin - tile.table_position) / tile.block_tokens;
  int64_t offset = (begin - tile.table_position) % tile.block_tokens;
  for (int64_t i = 0; i < out->keys; ++block, offset = 0) {
    const uint8_t* k = tile.arena + tile.blocks[block].k_slot * tile.slot_bytes;
    const uint8_t* v = tile.arena + tile.blocks[block].v_slot * tile.slot_bytes;
    for (; offset < tile.block_tokens && i < out->keys; ++offset, ++i) {
      out->k[i] = reinterpret_cast<const T*>(k) + offset * tile.d_head;
      out->v[i] = reinterpret_cast<const T*>(v) + offset * tile.d_head;
    }
  }
}

SPILLWAY_SIMD void FetchRow(const T* row, int64_t d_head) {
  for (int64_t d = 0; d < d_head; d += 64 / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(row + d, 0, 2);
}

// panel[group of d][key][kGroup], up to a whole strip of keys; keys beyond the tile's are zeros.
// A group is 4 bytes, so that the panel is the transpose of 4-byte words.
//
// Packing a tile's keys and values fetches those of the tile `ahead`, row for row: requests spread over the
// work overlap with it, where a burst of them would stall.
void PackKeys(const KeyTile& keys, const KeyTile& ahead, int64_t d_head, T* panel) {
  const int64_t words = (d_head + kGroup - 1) / kGroup;
  for (int64_t first = 0; first < RoundUp(keys.keys, kStripColumns); first += kLanes) {
    for (int64_t i = first; i < first + kLanes && i < ahead.keys; ++i) FetchRow(ahead.k[i], d_head);
    for (int64_t word = 0; word < words; word += kLanes) {
      F square[kLanes];
#pragma GCC unroll 16
      for (int64_t i = 0; i < kLanes; ++i) {
        square[i] = first + i < keys.keys
                        ? LoadWords(keys.k[first + i] + word * kGroup, d_head - word * kGroup)
                        : Zero();
      }
      Transpose(square);
      const int64_t rows = words - word < kLanes ? words - word : kLanes;
      float* out = reinterpret_cast<float*>(panel) + word * kKeyTile + first;
      if (rows == kLanes) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < kLanes; ++i) Store(out + i * kKeyTile, square[i]);
      } else {
        for (int64_t i = 0; i < rows; ++i) Store(out + i * kKeyTile, square[i]);
      }
    }
  }
}

// panel[group of keys][d rounded up to 16][kGroup]; what lies beyond the keys and beyond d is zeros.
void PackValues(const KeyTile& keys, const KeyTile& ahead, int64_t d_head, T* panel) {
  const int64_t width = RoundUp(d_head, kStripColumns);
  for (int64_t key = 0; key < RoundUp(keys.keys, kGroup); key += kGroup) {
    for (int64_t i = key; i < key + kGroup && i < ahead.keys; ++i) FetchRow(ahead.v[i], d_head);
    T* out = panel + key * width;
    for (int64_t d = 0; d < width; d += kLanes)
      StoreB(out + d * kGroup, ValueColumns(keys.v + key, keys.keys - key, d, d_head - d));
  }
}

// Turns one row's scores into weights, relative to the row's new maximum, and returns the factor by which
// what was summed so far shrinks.
template <int64_t kKeys>
float Soften(float* scores, int64_t keys, float scale, float* row_max, float* row_sum, T* weights) {
  const F minus_infinity = Splat(-kInfinity);
  F highest = minus_infinity;
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    if (i >= keys) break;
    highest = Max(highest, Select(First(keys - i), Load(scores + i), minus_infinity));
  }
  const float tile_max = ReduceMax(highest) * scale;
  const float max = tile_max > *row_max ? tile_max : *row_max;
  const F f_scale = Splat(scale);
  const F f_max = Splat(-max);
  F sum = Zero();
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    F weight = Zero();
    if (i < keys) {
      weight = Select(First(keys - i), Exp(Fma(Load(scores + i), f_scale, f_max)), Zero());
      sum = Add(sum, weight);
    }
    StoreT(weights + i, weight);
  }
  F shrink = Exp(Splat(*row_max - max));
  alignas(64) float first[kLanes];
  Store(first, shrink);
  *row_sum = *row_sum * first[0] + ReduceAdd(sum);
  *row_max = max;
  return first[0];
}

// Rows `width` elements apart, filled up with zeros.
void PackQueries(const AttentionTile& tile, int64_t width, T* out) {
  for (int64_t i = 0; i < tile.n_queries; ++i) {
    const int64_t query = tile.first_query + i;
    const T* q =
        static_cast<const T*>(tile.q) + query / tile.group * tile.q_stride + query % tile.group * tile.d_head;
    for (int64_t d = tile.d_head; d < width; ++d) out[i * width + d] = 0;
    CopyElements(q, out + i * width, tile.d_head);
  }
}

void AttendKeys(const AttentionTile& tile, const AttentionBuffers& buffers, const KeyTile& keys,
                const KeyTile& ahead, int64_t position) {
  const int64_t query_width = RoundUp(tile.d_head, kGroup);
  const int64_t value_width = RoundUp(tile.d_head, kStripColumns);
  const T* queries = static_cast<const T*>(buffers.queries);
  T* k_panel = static_cast<T*>(buffers.k_panel);
  T* v_panel = static_cast<T*>(buffers.v_panel);
  T* weights = static_cast<T*>(buffers.weights);

  // Rows are in order of position: those that see none of these keys come first.
  const int64_t tokens_before = position > tile.first_position ? position - tile.first_position : 0;
  int64_t first = tokens_before * tile.group - tile.first_query;
  first = first < 0 ? 0 : first;
  const int64_t rows = tile.n_queries - first;
  if (rows <= 0) return;

  PackKeys(keys, ahead, tile.d_head, k_panel);
  PackValues(keys, ahead, tile.d_head, v_panel);
  const int64_t key_strips = (keys.keys + kStripColumns - 1) / kStripColumns;
  MultiplyAllRows(rows,
                  Block{queries + first * query_width, query_width, k_panel, kKeyTile * kGroup,
                        query_width / kGroup, buffers.scores + first * kKeyTile, kKeyTile, false, 0},
                  key_strips);
  for (int64_t i = first; i < tile.n_queries; ++i) {
    const int64_t row_position = tile.first_position + (tile.first_query + i) / tile.group;
    const int64_t visible = row_position + 1 - position;
    const float shrink =
        Soften<kKeyTile>(buffers.scores + i * kKeyTile, visible < keys.keys ? visible : keys.keys, tile.scale,
                         buffers.max + i, buffers.sum + i, weights + i * kKeyTile);
    if (shrink != 1.0F) {
      float* acc = buffers.acc + i * value_width;
      for (int64_t d = 0; d < value_width; d += kLanes) Store(acc + d, Mul(Load(acc + d), Splat(shrink)));
    }
  }
  for (int64_t d = 0; d < value_width; d += kPanelColumns) {
    const int64_t strips =
        (value_width - d < kPanelColumns ? value_width - d : kPanelColumns) / kStripColumns;
    MultiplyAllRows(
        rows,
        Block{weights + first * kKeyTile, kKeyTile, v_panel + d * kGroup, value_width * kGroup,
              (keys.keys + kGroup - 1) / kGroup, buffers.acc + first * value_width + d, value_width, true, 0},
        strips);
  }
}

// Scores of kRows queries, [kRows, width], and kLanes keys from `first` on: squares of keys by words are
// turned in registers and multiplied there. With kWhole all the keys and all of their words are there, and
// their values are fetched, a line at a time: a burst of requests would stall.
template <int kRows, bool kWhole>
SPILLWAY_SIMD void ScoreLanes(const KeyTile& keys, int64_t first, const T* queries, int64_t width,
                              int64_t d_head, float* scores) {
  // Two sums a row, where registers allow, so that additions wait less for each other.
  constexpr int kSums = kRows <= 4 ? 2 : 1;
  F sums[kRows][kSums];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int i = 0; i < kSums; ++i) sums[r][i] = Zero();
  }
  for (int64_t d = 0; d < width; d += kLanes * kGroup) {
    F square[kLanes];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      const bool there = kWhole || first + i < keys.keys;
      square[i] = there ? LoadWords(keys.k[first + i] + d, kWhole ? kLanes * kGroup : d_head - d) : Zero();
    }
    Transpose(square);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) {
      if (kWhole) __builtin_prefetch(keys.v[first + i] + d, 0, 2);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        F& sum = sums[r][i % kSums];
        sum = MultiplyAdd(SplatA(queries + r * width + d + i * kGroup), AsB(square[i]), sum);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    Store(scores + r * kFewKeys + first, kSums == 2 ? Add(sums[r][0], sums[r][1]) : sums[r][0]);
  }
}

template <int kRows>
void ScoreKeys(const KeyTile& keys, const T* queries, int64_t width, int64_t d_head, float* scores) {
  int64_t first = 0;
  if (width == d_head) {
    for (; first + kLanes <= keys.keys; first += kLanes) {
      ScoreLanes<kRows, true>(keys, first, queries, width, d_head, scores);
    }
  }
  for (; first < keys.keys; first += kLanes) {
    for (int64_t i = first; i < first + kLanes && i < keys.keys; ++i) FetchRow(keys.v[i], d_head);
    ScoreLanes<kRows, false>(keys, first, queries, width, d_head, scores);
  }
}

// acc[r, d..] += sum over keys of weights[r, key] * v[key, d..], for kStrips strips of columns. The keys of
// `ahead` are fetched on the way where kFetch.
template <int kRows, int kStrips, bool kFetch>
void AddValues(const KeyTile& keys, const KeyTile& ahead, const T* weights, int64_t d, int64_t d_head,
               float* acc, int64_t acc_stride) {
  constexpr int kVectors = kStrips * kStripVectors;
  F sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) sums[r][c] = Load(acc + r * acc_stride + d + c * kLanes);
  }
  const auto add = [&](int64_t key, int64_t n_keys, bool whole) __attribute__((always_inline)) {
    B columns[kVectors];
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) {
      const int64_t column = d + c * kLanes;
      columns[c] = ValueColumns(keys.v + key, n_keys, column, whole ? kLanes : d_head - column);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const A weight = SplatA(weights + r * kFewKeys + key);
#pragma GCC unroll 16
      for (int c = 0; c < kVectors; ++c) sums[r][c] = MultiplyAdd(weight, columns[c], sums[r][c]);
    }
  };
  int64_t key = 0;
  if (d + kStrips * kStripColumns <= d_head) {
    for (; key + kGroup <= keys.keys; key += kGroup) {
      if (kFetch) {
        for (int64_t i = key; i < key + kGroup && i < ahead.keys; ++i) FetchRow(ahead.k[i], d_head);
      }
      add(key, kGroup, true);
    }
  }
  for (; key < keys.keys; key += kGroup) add(key, keys.keys - key, false);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int c = 0; c < kVectors; ++c) Store(acc + r * acc_stride + d + c * kLanes, sums[r][c]);
  }
}

template <int kRows>
void AttendFewKeys(const AttentionTile& tile, const AttentionBuffers& buffers, const KeyTile& keys,
                   const KeyTile& ahead) {
  const int64_t value_width = RoundUp(tile.d_head, kStripColumns);
  T* weights = static_cast<T*>(buffers.weights);
  ScoreKeys<kRows>(keys, static_cast<const T*>(buffers.queries), RoundUp(tile.d_head, kLanes * kGroup),
                   tile.d_head, buffers.scores);
  for (int64_t r = 0; r < kRows; ++r) {
    const float shrink = Soften<kFewKeys>(buffers.scores + r * kFewKeys, keys.keys, tile.scale,
                                          buffers.max + r, buffers.sum + r, weights + r * kFewKeys);
    if (shrink == 1.0F) continue;
    float* acc = buffers.acc + r * value_width;
    for (int64_t d = 0; d < value_width; d += kLanes) Store(acc + d, Mul(Load(acc + d), Splat(shrink)));
  }
  constexpr int kAtOnce = StripsAtOnce(kRows);
  const auto add = [&]<int kStrips>(int64_t d) {
    const auto as = d == 0 ? AddValues<kRows, kStrips, true> : AddValues<kRows, kStrips, false>;
    as(keys, ahead, weights, d, tile.d_head, buffers.acc, value_width);
  };
  int64_t d = 0;
  for (; d + kAtOnce * kStripColumns <= value_width; d += kAtOnce * kStripColumns) {
    add.template operator()<kAtOnce>(d);
  }
  for (; d < value_width; d += kStripColumns) add.template operator()<1>(d);
}

using AttendFewFunction = void (*)(const AttentionTile&, const AttentionBuffers&, const KeyTile&,
                                   const KeyTile&);
constexpr AttendFewFunction kAttendFew[kFewQueries] = {AttendFewKeys<1>, AttendFewKeys<2>, AttendFewKeys<3>,
                                                       AttendFewKeys<4>, AttendFewKeys<5>, AttendFewKeys<6>,
                                                       AttendFewKeys<7>, AttendFewKeys<8>};

void Attend(const AttentionTile& tile, const AttentionBuffers& buffers) {
  const int64_t value_width = RoundUp(tile.d_head, kStripColumns);
  for (int64_t i = 0; i < tile.n_queries; ++i) {
    buffers.max[i] = -kInfinity;
    buffers.sum[i] = 0;
  }
  for (int64_t i = 0; i < tile.n_queries * value_width; i += kLanes) Store(buffers.acc + i, Zero());

  // No key beyond the last row's position is read.
  const int64_t first_token = tile.first_query / tile.group;
  const int64_t last_token = (tile.first_query + tile.n_queries - 1) / tile.group;
  const int64_t last = tile.first_position + last_token;
  const int64_t end = last + 1 < tile.key_end ? last + 1 : tile.key_end;
  const bool few = first_token == last_token && tile.n_queries <= kFewQueries;
  PackQueries(tile, RoundUp(tile.d_head, few ? kLanes * kGroup : kGroup), static_cast<T*>(buffers.queries));
  const int64_t step = few ? kFewKeys : kKeyTile;
  KeyTile tiles[2];
  const auto locate = [&](int64_t begin, KeyTile* out) {
    LocateKeys(tile, begin, begin + step < end ? begin + step : end, out);
  };
  if (tile.key_begin < end) locate(tile.key_begin, &tiles[0]);
  int current = 0;
  for (int64_t position = tile.key_begin; position < end; position += step, current ^= 1) {
    KeyTile& ahead = tiles[current ^ 1];
    ahead.keys = 0;
    if (position + step < end) {
      locate(position + step, &ahead);
    } else if (few && end < tile.fetch_end) {
      LocateKeys(tile, end, end + step < tile.fetch_end ? end + step : tile.fetch_end, &ahead);
    }
    if (few) {
      kAttendFew[tile.n_queries - 1](tile, buffers, tiles[current], ahead);
    } else {
      AttendKeys(tile, buffers, tiles[current], ahead, position);
    }
  }
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_ATTENTION_H_
