// The shape of a model: everything the transformer, the memory plan and the cost model need to know of it,
// and nothing about how a file spells it. A plain value.
#ifndef SPILLWAY_ENGINE_MODEL_MODEL_CONFIG_H_
#define SPILLWAY_ENGINE_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway::model {

class GgufFile;

enum class Family : uint8_t { kLlama, kOpt };
// "llama", "opt": as files and GetModel call it.
absl::string_view NameOf(Family family);

enum class NormKind : uint8_t { kRms, kLayer };
// kSiluGated: down(silu(gate(x)) * up(x)).
enum class ActivationKind : uint8_t { kSiluGated, kRelu };
enum class PositionKind : uint8_t { kRotary, kLearned };

// Which two elements of a head are rotated together: 2i and 2i + 1 (GGUF's Llama files store Q and K permuted
// for it), or i and i + dims/2 (Hugging Face).
enum class RopeStyle : uint8_t { kInterleaved, kHalf };

// Pair i of a token at position p turns by (p / linear_factor) * theta^(-2i/dims) / freq_factors[i].
struct RopeConfig {
  double theta = 10000;
  int32_t dims = 0;  // leading elements of a head that are rotated; even, at most d_head
  RopeStyle style = RopeStyle::kInterleaved;
  double linear_factor = 1;
  std::vector<float> freq_factors;  // [dims / 2], or empty: all 1
};

struct ModelConfig {
  Family family = Family::kLlama;
  std::string name;  // as the file calls the model; may be empty

  int32_t n_layers = 0;        // L
  int32_t d_model = 0;         // d
  int32_t n_heads = 0;         // H, query heads
  int32_t n_kv_heads = 0;      // n_kv, divides n_heads
  int32_t d_head = 0;          // d_h, of queries, keys and values alike
  int32_t d_ff = 0;            // inner size of the feed-forward network
  int32_t vocab_size = 0;      // rows of the embedding
  int32_t context_length = 0;  // positions the model was made for

  NormKind norm = NormKind::kRms;
  float norm_epsilon = 0;
  ActivationKind activation = ActivationKind::kSiluGated;
  PositionKind position = PositionKind::kRotary;
  RopeConfig rope;                  // of kRotary
  int32_t position_offset = 0;      // of kLearned: rows of the position table before that of position 0
  bool has_biases = false;          // on every projection; norms of kLayer always have one
  bool has_tied_embedding = false;  // the output matrix is the embedding

  int64_t d_q() const { return int64_t{n_heads} * d_head; }
  int64_t d_kv() const { return int64_t{n_kv_heads} * d_head; }

  // beta and chi: bytes per token per layer of keys and values, and of X (the K and V projections' input), in
  // elements of `element_bytes`.
  int64_t beta_bytes(int64_t element_bytes) const { return 2 * d_kv() * element_bytes; }
  int64_t chi_bytes(int64_t element_bytes) const { return int64_t{d_model} * element_bytes; }

  // Weights of the whole model; a tied matrix counts once.
  int64_t parameter_count() const;
};

// Limits that no model comes near; products of any three stay in 63 bits.
constexpr int64_t kLayersMax = 1 << 12;
constexpr int64_t kHeadsMax = 1 << 14;
constexpr int64_t kWidthMax = 1 << 20;
constexpr int64_t kVocabularyMax = 1 << 24;
constexpr int64_t kContextMax = 1 << 28;

// Reads and checks the configuration of a GGUF file of architecture "llama": sizes, divisibility, and that
// every tensor it implies is there with the exact shape. What Spillway would compute wrongly is
// Unimplemented, by name and with the way out: another architecture, experts, YaRN, biases, a tensor or an
// architecture key that it does not know. InvalidArgument or NotFound for a file that contradicts itself.
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_MODEL_CONFIG_H_
