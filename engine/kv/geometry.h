// Sizes of a cached block, from the model's shape. See docs/architecture.md for the vocabulary.
#ifndef SPILLWAY_ENGINE_KV_GEOMETRY_H_
#define SPILLWAY_ENGINE_KV_GEOMETRY_H_

#include <cstdint>

namespace spillway::kv {

using BlockId = int32_t;
constexpr BlockId kNoBlock = -1;

// How a block is stored on the host. State, fixed when the block is stored; a form can be dropped, never
// converted.
enum class Form : uint8_t { kKv, kX, kBoth };

// The slots in which a block's planes lie in some arena, the same in every layer; -1: that plane is not
// there.
struct Planes {
  int32_t k = -1;
  int32_t v = -1;
  int32_t x = -1;

  bool has_kv() const { return k >= 0; }
  bool has_x() const { return x >= 0; }
  bool has_both() const { return has_kv() && has_x(); }
  // REQUIRES: some plane is there.
  Form form() const { return has_both() ? Form::kBoth : has_x() ? Form::kX : Form::kKv; }
};

struct Geometry {
  int32_t n_layers = 0;
  int32_t n_kv_heads = 0;
  int32_t d_head = 0;
  int32_t d = 0;             // width of X
  int32_t block_tokens = 0;  // power of two, 16..128
  int32_t element_bytes = 2;

  int64_t d_kv() const { return int64_t{n_kv_heads} * d_head; }
  // beta and chi: bytes per token per layer of K and V together, and of X.
  int64_t beta_bytes() const { return 2 * d_kv() * element_bytes; }
  int64_t chi_bytes() const { return int64_t{d} * element_bytes; }
  // A K plane or a V plane of one block in one layer takes one slot; an X plane takes x_slots().
  int64_t slot_bytes() const { return d_kv() * block_tokens * element_bytes; }
  int64_t x_slots() const { return (d + d_kv() - 1) / d_kv(); }
  int64_t block_slots(Form form) const {
    return (form != Form::kX ? 2 : 0) + (form != Form::kKv ? x_slots() : 0);
  }
  // Host bytes of a block in all layers.
  int64_t block_bytes(Form form) const { return block_slots(form) * slot_bytes() * n_layers; }
  int64_t blocks_for(int64_t n_tokens) const { return (n_tokens + block_tokens - 1) / block_tokens; }
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_GEOMETRY_H_
