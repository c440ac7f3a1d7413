#include "engine/model/weights.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "engine/model/weight_loader.h"

namespace spillway::model {
namespace {

using device::DevicePtr;

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

std::vector<std::string> Names(int32_t layer, std::initializer_list<absl::string_view> tensors,
                               absl::string_view suffix) {
  std::vector<std::string> names;
  for (const absl::string_view tensor : tensors) {
    names.push_back(absl::StrCat("blk.", layer, ".", tensor, ".", suffix));
  }
  return names;
}

absl::Status PlaceLayer(const ModelConfig& config, int32_t index, LayerWeights& layer, WeightLoader& loader) {
  const auto place = [&](std::initializer_list<absl::string_view> tensors, device::PackedMatrix* matrix,
                         DevicePtr* bias) -> absl::Status {
    SPILLWAY_RETURN_IF_ERROR(
        loader.PlaceMatrix(Names(index, tensors, "weight"), WeightLoader::Use::kLayers, matrix));
    if (!config.has_biases) return absl::OkStatus();
    return loader.PlaceF32(Names(index, tensors, "bias"), bias);
  };
  const auto place_norm = [&](absl::string_view tensor, DevicePtr* gain, DevicePtr* bias) -> absl::Status {
    SPILLWAY_RETURN_IF_ERROR(loader.PlaceF32(Names(index, {tensor}, "weight"), gain));
    if (config.norm != NormKind::kLayer) return absl::OkStatus();
    return loader.PlaceF32(Names(index, {tensor}, "bias"), bias);
  };
  SPILLWAY_RETURN_IF_ERROR(place_norm("attn_norm", &layer.attention_norm, &layer.attention_norm_bias));
  SPILLWAY_RETURN_IF_ERROR(place({"attn_q", "attn_k", "attn_v"}, &layer.qkv, &layer.qkv_bias));
  SPILLWAY_RETURN_IF_ERROR(place({"attn_output"}, &layer.attention_output, &layer.attention_output_bias));
  SPILLWAY_RETURN_IF_ERROR(place_norm("ffn_norm", &layer.feed_forward_norm, &layer.feed_forward_norm_bias));
  SPILLWAY_RETURN_IF_ERROR(config.activation == ActivationKind::kSiluGated
                               ? place({"ffn_gate", "ffn_up"}, &layer.up, &layer.up_bias)
                               : place({"ffn_up"}, &layer.up, &layer.up_bias));
  return place({"ffn_down"}, &layer.down, &layer.down_bias);
}

}  // namespace

int32_t LoadingThreads(const device::DeviceInfo& info, const WeightOptions& options) {
  constexpr int32_t kThreadsMax = 8;
  if (options.threads > 0) return options.threads;
  if (info.kind == "cpu") return std::max(1, info.threads);
  return std::clamp(static_cast<int32_t>(std::thread::hardware_concurrency()), 1, kThreadsMax);
}

// A tied head is the embedding where the device reads rows of what it multiplies; else each has a layout of
// its own.
absl::Status ModelWeights::PlaceEnds(const ModelConfig& config, WeightLoader& loader) {
  using Use = WeightLoader::Use;
  const std::string embedding = "token_embd.weight";
  if (config.has_tied_embedding) {
    SPILLWAY_ASSIGN_OR_RETURN(head_, loader.PlanMatrix({embedding}));
    if (head_.is_table) {
      embedding_ = head_;
      return loader.PlaceTable(embedding, Use::kTiedEmbedding, {&embedding_, &head_});
    }
  }
  SPILLWAY_ASSIGN_OR_RETURN(embedding_, loader.PlanTable(embedding));
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceTable(embedding, Use::kEmbedding, {&embedding_}));
  return config.has_tied_embedding ? loader.PlaceMatrix({embedding}, Use::kTiedHead, &head_)
                                   : loader.PlaceMatrix({"output.weight"}, Use::kHead, &head_);
}

absl::Status ModelWeights::Place(const ModelConfig& config, WeightPlace layers_on, WeightLoader& loader) {
  layers_.assign(static_cast<size_t>(config.n_layers), {});
  SPILLWAY_RETURN_IF_ERROR(PlaceEnds(config, loader));
  if (config.position == PositionKind::kLearned) {
    SPILLWAY_RETURN_IF_ERROR(
        loader.PlaceExpandedRows("position_embd.weight", config.position_offset, &position_embedding_));
  }
  SPILLWAY_RETURN_IF_ERROR(loader.PlaceF32({"output_norm.weight"}, &output_norm_));
  if (config.norm == NormKind::kLayer) {
    SPILLWAY_RETURN_IF_ERROR(loader.PlaceF32({"output_norm.bias"}, &output_norm_bias_));
  }
  if (config.position == PositionKind::kRotary) {
    loader.PlaceF32(InverseFrequencies(config.rope), &inverse_frequency_);
  }
  for (int32_t i = 0; i < config.n_layers; ++i) {
    if (layers_on == WeightPlace::kHost) loader.BeginHostLayer();
    SPILLWAY_RETURN_IF_ERROR(PlaceLayer(config, i, layers_[static_cast<size_t>(i)], loader));
  }
  return absl::OkStatus();
}

namespace {

// Where the layers go; what does not fit is refused here, before anything is loaded.
absl::StatusOr<WeightPlace> ChoosePlace(const device::Device& device, const WeightLoader& sizes,
                                        const WeightOptions& options) {
  const int64_t memory_bytes = device.info().memory_bytes;
  const int64_t other_bytes = device.allocated_bytes() + sizes.reserved_bytes();
  const int64_t layers_bytes = sizes.host_reserved_bytes();
  const int64_t slots_bytes = std::min(layers_bytes, 2 * sizes.largest_layer_bytes());
  const bool may_stream = !device.info().host_addressable;
  const auto reserve = [&options](int64_t bytes) { return options.reserve ? options.reserve(bytes) : 0; };
  const auto needed = [&](WeightPlace place, int64_t bytes) {
    return other_bytes + (place == WeightPlace::kHost ? slots_bytes : layers_bytes) + reserve(bytes);
  };
  WeightPlace place = options.layers_on;
  if (place == WeightPlace::kAuto) {
    const bool fits = needed(WeightPlace::kDevice, memory_bytes) <= memory_bytes;
    place = fits || !may_stream ? WeightPlace::kDevice : WeightPlace::kHost;
  }
  if (needed(place, memory_bytes) <= memory_bytes) return place;
  // What is needed grows a little with what is there: the least memory that suffices for itself.
  constexpr int kMostRounds = 64;
  const auto least = [&](WeightPlace at) {
    int64_t bytes = needed(at, memory_bytes);
    for (int i = 0; i < kMostRounds && needed(at, bytes) > bytes; ++i) bytes = needed(at, bytes);
    return bytes;
  };
  const bool on_host = place == WeightPlace::kHost;
  const int64_t total_bytes = least(place);
  std::string message = absl::StrCat(
      "a device memory of ", FormatBytes(memory_bytes), " is too small; ", FormatBytes(total_bytes),
      " would do (", total_bytes, " bytes): ", on_host ? "two layers at a time " : "all layers ",
      FormatBytes(on_host ? slots_bytes : layers_bytes), ", the other weights ",
      FormatBytes(sizes.reserved_bytes()), ", work and the blocks that are written ",
      FormatBytes(reserve(total_bytes)));
  if (!on_host && may_stream) {
    absl::StrAppend(&message, "; with the layers' weights on the host ",
                    FormatBytes(least(WeightPlace::kHost)));
  }
  return absl::ResourceExhaustedError(message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelWeights>> ModelWeights::Load(device::Device& device,
                                                                 const TensorSource& source,
                                                                 const ModelConfig& config,
                                                                 const WeightOptions& options) {
  std::unique_ptr<ModelWeights> weights(new ModelWeights(device));
  WeightPlace place = options.layers_on;
  if (place == WeightPlace::kAuto || options.reserve) {
    WeightLoader sizes(device, source, options);
    SPILLWAY_RETURN_IF_ERROR(weights->Place(config, WeightPlace::kHost, sizes));
    SPILLWAY_ASSIGN_OR_RETURN(place, ChoosePlace(device, sizes, options));
  }
  WeightLoader loader(device, source, options);
  SPILLWAY_RETURN_IF_ERROR(weights->Place(config, place, loader));
  SPILLWAY_RETURN_IF_ERROR(loader.Fill(*weights));
  return weights;
}

ModelWeights::~ModelWeights() {
  if (arena_) device_.Free(arena_);
  if (registered_) device_.UnregisterHost(host_);
  if (host_ != nullptr) munmap(host_, static_cast<size_t>(host_bytes_));
}

int64_t ModelWeights::largest_layer_bytes() const {
  int64_t largest = 0;
  for (const Run& run : runs_) largest = std::max(largest, run.size_bytes);
  return largest;
}

LayerWeights ModelWeights::LayerAt(int32_t layer, DevicePtr base) const {
  LayerWeights here = layers_[static_cast<size_t>(layer)];
  const auto move = [base](DevicePtr& ptr) {
    if (ptr) ptr = base + static_cast<int64_t>(ptr.address - WeightLoader::kLayerOrigin);
  };
  for (device::PackedMatrix* matrix : {&here.qkv, &here.attention_output, &here.up, &here.down}) {
    move(matrix->data);
  }
  for (DevicePtr* ptr :
       {&here.attention_norm, &here.attention_norm_bias, &here.qkv_bias, &here.attention_output_bias,
        &here.feed_forward_norm, &here.feed_forward_norm_bias, &here.up_bias, &here.down_bias}) {
    move(*ptr);
  }
  return here;
}

}  // namespace spillway::model
