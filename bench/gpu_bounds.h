// What a step must read or compute at least: the arithmetic under the shares that `spillway-bench gpu`
// prints. Values and pure functions.
#ifndef SPILLWAY_BENCH_GPU_BOUNDS_H_
#define SPILLWAY_BENCH_GPU_BOUNDS_H_

#include <cstdint>
#include <string>

#include "engine/model/model_config.h"

namespace spillway::bench {

// K and V of a token in all layers.
int64_t KvBytesPerToken(const model::ModelConfig& config, int64_t element_bytes);

// Multiply-adds count as two.
struct PromptFlop {
  // Every token through every layer's matrices, and the last one through the head.
  double linear = 0;
  // Scores and weighted values of every pair of a token and one that is not after it, in all layers.
  double attention = 0;

  double total() const { return linear + attention; }
};
// Of a prompt from nothing to its first token.
PromptFlop FlopOfPrompt(const model::ModelConfig& config, int64_t tokens);

// The share of `seconds` that `work` (bytes, FLOP) takes at `rate` a second. 0 where nothing took any time.
double ShareOfRate(double work, double seconds, double rate);

// A measured pass and what it had to do, for estimating the same of more layers: more of them take so much
// longer as the layers took on the device; what is there once (embedding, head, draw, tables, launches that
// the host waits for) stays as it is.
struct PassTime {
  double step_s = 0;    // all of it, by the host's clock
  double layers_s = 0;  // of it, layers on the device
  int32_t layers = 0;

  double SecondsWith(int32_t whole_layers) const {
    return step_s + layers_s / layers * (whole_layers - layers);
  }
};

// "3.01 TB/s", "55.1 GB/s"; "TFLOP/s" by `unit`.
std::string FormatRate(double per_s, const std::string& unit);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GPU_BOUNDS_H_
