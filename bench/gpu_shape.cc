#include "bench/gpu_shape.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace spillway::bench {

int32_t GpuShape::ChunkTokens(int32_t width, int64_t element_bytes) const {
  const int64_t blocks = ring_chunk_bytes / (block_tokens * width * element_bytes);
  return static_cast<int32_t>(std::max<int64_t>(1, blocks)) * block_tokens;
}

int64_t GpuShape::cached_tokens() const {
  // A block more each for what is not full.
  return int64_t{batches.back()} * (context + room_tokens() + block_tokens) + prompt + block_tokens;
}

GpuShape Llama8BShape() {
  GpuShape shape;
  shape.name = "Llama-3-8B";
  return shape;
}

GpuShape TinyShape() {
  GpuShape shape;
  shape.name = "tiny";
  shape.d_model = 256;
  shape.d_ff = 512;
  shape.n_heads = 8;
  shape.n_kv_heads = 2;
  shape.d_head = 32;
  shape.vocab = 300;
  shape.layers = 2;
  shape.whole_layers = 4;
  shape.batches = {1, 2};
  shape.context = 32;
  shape.steps = 2;
  shape.prompt = 64;
  shape.piece_rows = {16, 32};
  shape.carried_steps = 2;
  shape.product = 64;
  shape.wide_d_model = 64;
  shape.copy_bytes = shape.link_bytes = shape.ahead_bytes = shape.cold_bytes = 64 << 10;
  shape.attention_sequences = {1, 2};
  shape.attention_contexts = {32, 64};
  shape.repeats = 1;
  shape.group_s = 0;
  shape.block_tokens = 16;
  shape.ring_chunk_bytes = 32 << 10;
  shape.spare_bytes = 4 << 20;
  return shape;
}

std::string ConfigJson(const GpuShape& shape, int32_t layers) {
  return absl::StrFormat(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": %d,
    "intermediate_size": %d, "num_attention_heads": %d, "num_key_value_heads": %d, "head_dim": %d,
    "num_hidden_layers": %d, "vocab_size": %d, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "bfloat16"})",
      shape.d_model, shape.d_ff, shape.n_heads, shape.n_kv_heads, shape.d_head, layers, shape.vocab);
}

int32_t LayersThatFit(const GpuShape& shape, device::Encoding matrices, int64_t element_bytes,
                      int64_t free_bytes) {
  const int64_t d = shape.d_model;
  const int64_t elements = d * (2 * shape.d_q() + 2 * shape.d_kv() + 3 * int64_t{shape.d_ff});
  // An eighth of the cache to spare, as the executor wants it.
  const int64_t cache_bytes = shape.cached_tokens() * 2 * shape.d_kv() * element_bytes * 9 / 8;
  const int64_t layer_bytes = device::EncodedBytes(matrices, elements) + cache_bytes;
  const int64_t embedding_bytes = d * shape.vocab * element_bytes;
  const int64_t head_bytes = device::EncodedBytes(matrices, d * shape.vocab);
  const int64_t left_bytes = free_bytes - shape.spare_bytes - embedding_bytes - head_bytes;
  return static_cast<int32_t>(std::clamp<int64_t>(left_bytes / layer_bytes, 0, shape.layers));
}

}  // namespace spillway::bench
