#include "engine/model/weights.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/model/weight_loader.h"

namespace spillway::model {
namespace {

// Angle of pair i per position; see RopeConfig.
std::vector<float> InverseFrequencies(const RopeConfig& rope) {
  std::vector<float> frequencies(static_cast<size_t>(rope.dims / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / rope.dims;
    const double factor = rope.freq_factors.empty() ? 1.0 : static_cast<double>(rope.freq_factors[i]);
    frequencies[i] = static_cast<float>(std::pow(rope.theta, exponent) / rope.linear_factor / factor);
  }
  return frequencies;
}

absl::Status PlaceLlamaLayer(int32_t index, LayerWeights& layer, WeightLoader& loader) {
  using Use = WeightLoader::Use;
  const auto name = [index](absl::string_view tensor) {
    return absl::StrCat("blk.", index, ".", tensor, ".weight");
  };
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceF32(name("attn_norm"), &layer.attention_norm));
  SPILLWAY_RETURN_IF_ERROR(
      loader.PlaceMatrix({name("attn_q"), name("attn_k"), name("attn_v")}, Use::kLayers, &layer.qkv));
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceMatrix({name("attn_output")}, Use::kLayers, &layer.attention_output));
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceF32(name("ffn_norm"), &layer.feed_forward_norm));
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceMatrix({name("ffn_gate"), name("ffn_up")}, Use::kLayers, &layer.up));
  return loader.PlaceMatrix({name("ffn_down")}, Use::kLayers, &layer.down);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelWeights>> ModelWeights::Load(device::Device& device, const GgufFile& file,
                                                                 const ModelConfig& config,
                                                                 const WeightOptions& options) {
  using Use = WeightLoader::Use;
  std::unique_ptr<ModelWeights> weights(new ModelWeights(device));
  weights->layers_.resize(static_cast<size_t>(config.n_layers));
  WeightLoader loader(device, file, options);
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceRows("token_embd.weight", Use::kEmbedding, &weights->embedding_));
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceF32("output_norm.weight", &weights->output_norm_));
  SPILLWAY_RETURN_IF_ERROR(config.has_tied_embedding
                               ? loader.PlaceMatrix({"token_embd.weight"}, Use::kTiedHead, &weights->head_)
                               : loader.PlaceMatrix({"output.weight"}, Use::kHead, &weights->head_));
  if (config.position == PositionKind::kRotary) {
    loader.PlaceF32(InverseFrequencies(config.rope), &weights->inverse_frequency_);
  }
  for (int32_t i = 0; i < config.n_layers; ++i) {
    SPILLWAY_RETURN_IF_ERROR(PlaceLlamaLayer(i, weights->layers_[static_cast<size_t>(i)], loader));
  }
  SPILLWAY_RETURN_IF_ERROR(loader.Fill(*weights));
  return weights;
}

ModelWeights::~ModelWeights() {
  if (arena_) device_.Free(arena_);
}

}  // namespace spillway::model
