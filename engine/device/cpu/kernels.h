// The table of inner kernels that one instruction set offers for one compute dtype T. The tables are the only
// things that the kernel files export: each is compiled with its own flags, so nothing else that they
// contain may be seen (or emitted as a shared inline function) outside. This header therefore holds plain
// data only, and the kernel files include nothing from the standard library but <cstdint>.
//
// Kernels are single-threaded and work on the range they are given; who calls them splits the work.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_KERNELS_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_KERNELS_H_

#include <cstdint>

#include "engine/device/ops.h"

namespace spillway::device {

// Packed weights are panels of kPanelColumns output features: [n / 64][k_padded / g][64][g], g values of k
// side by side (1 for f32, 2 for bf16: what VDPBF16PS multiplies). Features and k are padded with zeros. This
// is oneDNN's BA16a64b (f32) and BA16a64b2a (bf16), so both sides read the same bytes.
constexpr int64_t kPanelColumns = 64;
// Work is split between threads by strips: a quarter of a panel.
constexpr int64_t kStripColumns = 16;

struct ProductArgs {
  int64_t rows;
  int64_t n;
  int64_t k;
  int64_t panel_stride;  // elements of T from panel to panel
  const void* in;        // T [rows, k]
  const void* weight;    // packed
  void* out;             // f32 or T [rows, n]
  const float* bias;     // [n] or null
  Activation activation;
  bool out_is_f32;
  bool accumulate;
};

// Rows of one tile of queries, and keys of one inner step of attention.
constexpr int64_t kQueryTile = 96;
constexpr int64_t kKeyTile = 64;
constexpr int64_t kMaxHeadDim = kHeadElementsMax;

// One tile of queries of one KV head against keys [key_begin, key_end) of one sequence. Query row i of the
// tile is head (first_query + i) % group of the sequence's token (first_query + i) / group.
struct AttentionTile {
  const void* q;           // T, of the sequence's first row and the KV head's first query head
  int64_t q_stride;        // elements between tokens
  int64_t group;           // query heads per KV head
  int64_t first_query;     // first query row of the tile
  int64_t n_queries;       // at most kQueryTile
  int64_t first_position;  // of the sequence's first row
  int64_t d_head;
  float scale;
  const AttentionBlock* blocks;  // of the sequence
  const uint8_t* arena;          // of the layer, plus the KV head's offset within a plane
  int64_t slot_bytes;
  int64_t block_tokens;
  int64_t table_position;  // position of the first key of blocks[0]
  int64_t key_begin;
  int64_t key_end;
  int64_t fetch_end;  // keys in [key_end, fetch_end) are likely to be read next by the same thread
};

// Results and working memory of one tile, 64-byte aligned. d16 is d_head rounded up to 16.
struct AttentionBuffers {
  float* acc;     // [n_queries, d16], out: sum of weight * v; zeros beyond d_head
  float* max;     // [n_queries], out: -inf where no key is seen
  float* sum;     // [n_queries], out: sum of weights
  void* queries;  // T [kQueryTile, d16]
  void* k_panel;  // T [kKeyTile, d16]
  void* v_panel;  // T [kKeyTile, d16]
  float* scores;  // [kQueryTile, kKeyTile]
  void* weights;  // T [kQueryTile, kKeyTile]
};

struct NormRow {
  NormKind kind;
  int64_t d;
  float epsilon;
  float* hidden;
  const void* addend;  // T or null
  const float* gain;
  const float* bias;  // or null
  void* out;          // T
};

// Cosines and sines laid out for the style: kHalf [rope_dims/2] each; kInterleaved [rope_dims] each, a
// pair's value twice and the sine's sign alternating (-, +).
struct RopeTable {
  RopeStyle style;
  int64_t rope_dims;
  const float* cosine;
  const float* sine;
};

struct LogitSummary {
  float max;          // of the valid logits; -inf if there is none
  int32_t argmax;     // the lowest id that has it; -1 if there is none
  int64_t n_invalid;  // NaN or +inf: never drawn
};

struct Kernels {
  // --- Elementwise, one row.
  void (*embed)(const void* table_row, float scale, const void* position_row, int64_t d, float* hidden);
  void (*add_norm)(const NormRow& row);
  void (*fill_rope_table)(RopeStyle style, int64_t rope_dims, const float* inverse_frequency,
                          int32_t position, float* cosine, float* sine);
  void (*rope)(const RopeTable& table, int64_t d_head, const void* in, void* out);  // in == out is allowed
  void (*gate)(Activation activation, int64_t d_ff, const void* gate_up, void* out);
  // out[i] = values[i] * scale, to T.
  void (*scale_to)(const float* values, float scale, int64_t n, void* out);
  // acc[i] = acc[i] * a + other[i] * b.
  void (*blend)(float* acc, float a, const float* other, float b, int64_t n);

  // --- Products: strips [strip_begin, strip_end) of the output's columns.
  void (*product)(const ProductArgs& args, int64_t strip_begin, int64_t strip_end);

  void (*attend)(const AttentionTile& tile, const AttentionBuffers& buffers);

  // --- Sampling, over one row of logits. Invalid logits count as -inf.
  LogitSummary (*summarise)(const float* logits, int64_t n);
  // sum of exp((logit - max) * inverse_temperature)
  double (*sum_exp)(const float* logits, int64_t n, float max, float inverse_temperature);
  // Valid logits >= threshold and their ids, in order of id; returns how many. The outputs have room for n
  // + 16.
  int64_t (*collect)(const float* logits, int64_t n, float threshold, float* values, int32_t* tokens);
  // How many valid logits are > value.
  int64_t (*count_above)(const float* logits, int64_t n, float value);
  // weights[i] = exp((logit[i] - max) * inverse_temperature)
  void (*exp_weights)(const float* logits, int64_t n, float max, float inverse_temperature, float* weights);
};

extern const Kernels kSse4KernelsF32;
extern const Kernels kAvx2KernelsF32;
extern const Kernels kAvx512KernelsF32;
extern const Kernels kAvx512KernelsBf16;

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_KERNELS_H_
