// GpuShape: what `spillway-bench gpu` measures, and what of it a device has room for. Values and pure
// functions.
#ifndef SPILLWAY_BENCH_GPU_SHAPE_H_
#define SPILLWAY_BENCH_GPU_SHAPE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/device/tensor.h"
#include "engine/model/model_config.h"

namespace spillway::bench {

struct GpuShape {
  std::string name;
  // The model, Llama-like.
  int32_t d_model = 4096;
  int32_t d_ff = 14336;
  int32_t n_heads = 32;
  int32_t n_kv_heads = 8;
  int32_t d_head = 128;
  int32_t vocab = 128256;
  int32_t layers = 8;         // that are loaded and run
  int32_t whole_layers = 32;  // of the whole model, which is estimated from them

  // Steps.
  std::vector<int32_t> batches = {1, 32};  // of a decode step; in rising order
  int32_t context = 1024;                  // cached tokens of each of its sequences
  int32_t steps = 20;                      // that count
  int32_t prompt = 4096;
  std::vector<int32_t> piece_rows = {256, 1024};  // of a visit of the prompt; in rising order
  int32_t carried_steps = 5;

  // Operations.
  int64_t product = 8192;        // rows, inputs and outputs of the large product
  int32_t wide_d_model = 4096;   // of a multi-head model, where rebuilding pays
  int64_t copy_bytes = 1 << 30;  // of a copy within the device
  int64_t link_bytes = 256 << 20;
  int64_t ahead_bytes = 256 << 20;  // copied before what is timed, so that the device has work meanwhile
  // Attention goes round so many bytes of keys and values at least: more than any device's cache holds.
  int64_t cold_bytes = 1 << 30;
  std::vector<int32_t> attention_sequences = {1, 32};
  std::vector<int32_t> attention_contexts = {4096, 16384};
  int32_t repeats = 7;    // groups of calls, of which the median counts
  double group_s = 2e-3;  // a group takes about so long

  // As the daemon chooses them for such a model on a GPU.
  int32_t block_tokens = 64;
  int64_t ring_chunk_bytes = 2 << 20;

  int64_t spare_bytes = int64_t{3} << 29;  // of device memory, for scratch and buffers

  int64_t d_q() const { return int64_t{n_heads} * d_head; }
  int64_t d_kv() const { return int64_t{n_kv_heads} * d_head; }
  // Tokens of X in a chunk of the ring, in whole blocks: what is rebuilt at a time.
  int32_t ChunkTokens(int32_t width, int64_t element_bytes) const;
  // Tokens that sequences may grow by while they are measured.
  int32_t room_tokens() const { return 4 * steps + 4; }
  // What the caches of all sequences and the prompt hold.
  int64_t cached_tokens() const;
};

GpuShape Llama8BShape();
// For the emulated GPU and the CPU, where the numbers mean nothing.
GpuShape TinyShape();

// As Hugging Face's config.json, with so many layers.
std::string ConfigJson(const GpuShape& shape, int32_t layers);

// How many of shape.layers fit into so much device memory, with their caches; 0: not one.
int32_t LayersThatFit(const GpuShape& shape, device::Encoding matrices, int64_t element_bytes,
                      int64_t free_bytes);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GPU_SHAPE_H_
