#include "bench/gpu_bounds.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace spillway::bench {

int64_t KvBytesPerToken(const model::ModelConfig& config, int64_t element_bytes) {
  return 2 * config.d_kv() * element_bytes * config.n_layers;
}

PromptFlop FlopOfPrompt(const model::ModelConfig& config, int64_t tokens) {
  const auto d = static_cast<double>(config.d_model);
  const auto d_q = static_cast<double>(config.d_q());
  const auto d_kv = static_cast<double>(config.d_kv());
  const double feed_forward = config.activation == model::ActivationKind::kSiluGated ? 3 : 2;
  const double layer = d * (2 * d_q + 2 * d_kv + feed_forward * config.d_ff);
  const auto rows = static_cast<double>(tokens);
  PromptFlop flop;
  flop.linear = 2 * (rows * config.n_layers * layer + d * config.vocab_size);
  flop.attention = 4 * d_q * config.n_layers * (rows * (rows + 1) / 2);
  return flop;
}

double ShareOfRate(double work, double seconds, double rate) {
  return seconds > 0 && rate > 0 ? work / seconds / rate : 0;
}

std::string FormatRate(double per_s, const std::string& unit) {
  constexpr const char* kPrefixes[] = {"k", "M", "G", "T"};
  double value = per_s / 1e3;
  int prefix = 0;
  while (value >= 1000 && prefix < 3) {
    value /= 1000;
    ++prefix;
  }
  return absl::StrCat(absl::StrFormat("%.3g ", value), kPrefixes[prefix], unit, "/s");
}

}  // namespace spillway::bench
