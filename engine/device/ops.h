// Arguments of the fused operations. "T" is the device's compute dtype (f32, f16 or bf16); the residual
// stream, attention partials and logits are f32 on every device. Arrays are dense and row-major unless a
// stride is named. All DevicePtr tables (ids, positions, rows, reads) are device arrays of the named element
// type; a device with host_addressable memory reads them when the operation runs, so they stay untouched
// until then.
#ifndef SPILLWAY_ENGINE_DEVICE_OPS_H_
#define SPILLWAY_ENGINE_DEVICE_OPS_H_

#include <cstdint>

#include "engine/device/tensor_encoding.h"
#include "engine/device/types.h"

namespace spillway::device {

struct PackedMatrix;

// Elements of a head at most, in every operation that has heads.
constexpr int32_t kHeadElementsMax = 512;

// hidden[r, :] = table[ids[r], :] * scale (+ positions[append[r].position, :], for learned positions).
// Rows of the tables lie one after the other. Where those of `table` stay packed, each element is rounded to
// T as it is decoded: a row is that of the expanded table.
struct EmbedArgs {
  int32_t rows = 0;
  int32_t d = 0;
  DevicePtr table;  // [vocab, d] as Device::PlanTable says: packed, or T
  // PackedMatrix::encoding of the table; a plain one means T.
  Encoding encoding = Encoding::kF32;
  DevicePtr ids;        // int32 [rows]
  DevicePtr positions;  // T [*, d] or null
  DevicePtr append;     // AppendRow [rows], of which only the position is read; with `positions`
  DevicePtr hidden;     // f32 [rows, d], out
  float scale = 1;
};

enum class NormKind : uint8_t { kRms, kLayer };

// For r in rows, s = row_index ? row_index[r] : r:
//   if (addend) hidden[s, :] += addend[s, :]            (not allowed together with row_index)
//   out[r, :] = norm(hidden[s, :]) * gain (+ bias)      (f32 arithmetic)
struct AddNormArgs {
  NormKind kind = NormKind::kRms;
  int32_t rows = 0;
  int32_t d = 0;
  float epsilon = 1e-5F;
  DevicePtr hidden;     // f32 [*, d], in and out
  DevicePtr addend;     // T [rows, d] or null
  DevicePtr gain;       // f32 [d]
  DevicePtr bias;       // f32 [d] or null
  DevicePtr row_index;  // int32 [rows] or null
  DevicePtr out;        // T [rows, d]
};

// kGelu is the tanh form.
enum class Activation : uint8_t { kNone, kRelu, kSilu, kGelu };

// out = activation(in * weight^T + bias), or with `accumulate`: out += in * weight^T + bias (out f32).
// weight is [n, k]. f32 accumulation.
struct GemmArgs {
  int32_t rows = 0;
  DevicePtr in;   // T [rows, k]
  DevicePtr out;  // out_dtype [rows, n]
  DType out_dtype = DType::kF32;
  DevicePtr bias;  // f32 [n] or null
  Activation activation = Activation::kNone;
  bool accumulate = false;  // REQUIRES: out_dtype f32, no activation
  // The matrix that is multiplied next, where known: a hint, so that its weights may be fetched meanwhile.
  // `data` must stay in place; the matrix itself is read during the call only.
  const PackedMatrix* next = nullptr;
};

// One layer's cache memory as equal slots: slot i starts at base + i * slot_bytes. Tables name planes by slot
// number, the same in every layer, so that a step's tables are built and copied once and from layer to layer
// only `base` differs. K and V planes are [n_kv][block_tokens][d_head] and take a slot each, an X plane is
// [block_tokens][d] and takes as many consecutive slots as it needs; all T.
struct SlotArena {
  DevicePtr base;
  int64_t slot_bytes = 0;
};

// Where one row's K and V (and X, where stored) are appended: the planes of one block.
struct AppendRow {
  int32_t k_slot;
  int32_t v_slot;
  int32_t x_slot;         // -1: X is not stored
  int32_t offset_tokens;  // the row's place within the block
  int32_t position;       // its position in the sequence, for RoPE
};

enum class RopeStyle : uint8_t {
  kNone,
  kInterleaved,  // rotates (2i, 2i+1): GGUF llama files
  kHalf,         // rotates (i, i + rope_dims/2): Hugging Face llama files
};

// Rotates q in place and k on its way into the block; v and x are copied. With n_heads 0 the rows are k | v
// alone (what is rebuilt from X). Angle of pair i at position p is
// p * inverse_frequency[i]; dims beyond rope_dims pass unrotated.
struct RopeAppendArgs {
  int32_t rows = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t d_head = 0;
  int32_t d = 0;  // width of x
  int32_t block_tokens = 0;
  RopeStyle style = RopeStyle::kInterleaved;
  int32_t rope_dims = 0;
  DevicePtr inverse_frequency;  // f32 [rope_dims / 2]
  DevicePtr qkv;                // T [rows, (n_heads + 2*n_kv_heads) * d_head]: q | k | v; q rotated in place
  DevicePtr x;                  // T [rows, d] or null
  DevicePtr append;             // AppendRow [rows], or null:
  // whole blocks in order. Row r is token r % block_tokens of block b = r / block_tokens, whose K and V
  // planes are slots 2b and 2b + 1 and whose first token has position block_positions[b]. REQUIRES: x is
  // null.
  DevicePtr block_positions;  // int32 [ceil(rows / block_tokens)], read where append is null
  SlotArena arena;            // the layer's
};

// One sequence's share of an attention call: its query rows and the run of blocks that they read.
struct AttentionSequence {
  int32_t first_row;  // rows [first_row, first_row + n_rows) of q, consecutive positions
  int32_t n_rows;
  int32_t first_position;  // position of first_row
  int32_t first_block;     // index into the block table
  int32_t n_blocks;        // blocks of this call; the last may be partly filled
  int32_t key_begin;       // position of the first key of first_block
  int32_t key_end;  // keys at positions [key_begin, key_end) are read; causal: key position <= query position
};

struct AttentionBlock {
  int32_t k_slot;
  int32_t v_slot;
};

// Softmax attention of each sequence's queries over the listed keys, left unfinished so that other ranges can
// be merged by log-sum-exp (Milakov & Gimelshein 2018; Dao 2023): with s = scale * q.k over the listed keys,
//   max[r,h] = max s;  sum[r,h] = sum exp(s - max);  acc[r,h,:] = sum exp(s - max) * v
// A row that reads no key gets max = -inf, sum = 0, acc = 0. Query head h reads KV head h / (n_heads /
// n_kv_heads). No two sequences of a call have a row in common.
//
// Positions only say which keys a query sees, so blocks that every query of the sequence sees may be listed
// in any order, at any positions before first_position.
struct PartialAttentionArgs {
  int32_t n_sequences = 0;
  int32_t rows = 0;  // rows of q in all
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t d_head = 0;
  int32_t block_tokens = 0;
  int32_t q_stride = 0;  // elements between rows of q (q is the head of a q|k|v row)
  float scale = 0;
  DevicePtr q;          // T [rows, q_stride]
  DevicePtr sequences;  // AttentionSequence [n_sequences]
  DevicePtr blocks;     // AttentionBlock [*]
  SlotArena arena;      // the layer's
  // What acc, max and sum hold of other keys is kept and these keys are merged in (rows of no sequence stay
  // as they are); else they are overwritten.
  bool accumulate = false;
  DevicePtr acc;  // f32 [rows, n_heads, d_head], out
  DevicePtr max;  // f32 [rows, n_heads], out
  DevicePtr sum;  // f32 [rows, n_heads], out
};

// out[r,h,:] = merge over p < n_parts of (max, sum, acc)[p]; part p of each array lies p * part_stride_rows
// rows on. A row that read no key at all gets 0.
struct MergeAttentionArgs {
  int32_t rows = 0;
  int32_t n_heads = 0;
  int32_t d_head = 0;
  int32_t n_parts = 1;
  int64_t part_stride_rows = 0;
  DevicePtr acc;
  DevicePtr max;
  DevicePtr sum;
  DevicePtr out;  // T [rows, n_heads * d_head]
};

// out[r, i] = activation(gate_up[r, i]) * gate_up[r, d_ff + i]
struct GatedActivationArgs {
  int32_t rows = 0;
  int32_t d_ff = 0;
  Activation activation = Activation::kSilu;
  DevicePtr gate_up;  // T [rows, 2 * d_ff]
  DevicePtr out;      // T [rows, d_ff]
};

// How one row is sampled. The order is: penalties, mask, (logprobs are taken of the *unmodified*
// logits), temperature, top_k, min_p, top_p, draw.
//   repetition: logit > 0 ? logit / p : logit * p for every id in history (Keskar et al. 2019);
//   frequency, presence: logit -= f * count + p * (count > 0), counted over history[n_prompt..n_history).
struct SampleRow {
  float temperature;         // 0: greedy (the lowest id among equals)
  int32_t top_k;             // 0: all
  float top_p;               // 1: all
  float min_p;               // 0: all
  float repetition_penalty;  // 1: none
  float frequency_penalty;
  float presence_penalty;
  int32_t n_logprobs;  // -1: none; else the sampled token's logprob and that many of the most likely
  uint64_t seed;       // the draw depends on (seed, choice, position) only
  uint32_t choice;
  int32_t position;        // of the token being drawn
  const int32_t* history;  // host-readable ids, prompt then generated; read only where a penalty is set
  int32_t n_prompt;
  int32_t n_history;
  const uint32_t* forbidden;     // host-readable bit mask over the vocabulary (1: may not be drawn) or null
  const int32_t* forbidden_ids;  // host-readable short list of ids that may not be drawn (min_tokens) or null
  int32_t n_forbidden_ids;
};

struct TokenLogprob {
  int32_t token;
  float logprob;  // natural log under the model's own distribution
};

constexpr int32_t kMaxTopLogprobs = 20;

struct SampleResult {
  int32_t token;      // -1: no token may be drawn (all are forbidden or invalid)
  float logprob;      // this, rank and top are 0 where n_logprobs is -1
  int32_t rank;       // 1: the most likely token; 1 + how many are more likely
  int32_t n_invalid;  // logits that were NaN or +inf: never drawn, and a sign of a broken model or device
  int32_t n_top;
  TokenLogprob top[kMaxTopLogprobs];  // most likely first; ties by id
};

// rows and results are host arrays (pinned where the device needs it); results are complete when an event
// recorded after this call is.
struct SampleArgs {
  int32_t rows = 0;
  int32_t vocab = 0;
  DevicePtr logits;                   // f32 [rows, vocab]; may be overwritten
  const SampleRow* sample = nullptr;  // [rows]
  SampleResult* results = nullptr;    // [rows], out
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_OPS_H_
