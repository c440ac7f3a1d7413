#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "engine/device/ops.h"
#include "engine/model/gguf.h"
#include "engine/model/implied_tensors.h"
#include "engine/model/model_config.h"
#include "engine/model/tensor_checklist.h"

namespace spillway::model {
namespace {

constexpr absl::string_view kPrefix = "llama.";
constexpr absl::string_view kRemoveKey =
    "if it does not change what the model computes, remove it with gguf-new-metadata --remove-metadata";

// Keys under "llama." that are read below, or say nothing about the arithmetic.
constexpr std::array<absl::string_view, 17> kKnownKeys = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scale_linear",
};

// Keys that change the arithmetic unless they hold this value.
struct NeutralKey {
  absl::string_view key;
  double value;
  absl::string_view meaning;
};
constexpr std::array<NeutralKey, 8> kNeutralKeys = {{
    {"expert_count", 0, "a mixture of experts"},
    {"expert_used_count", 0, "a mixture of experts"},
    {"attention.sliding_window", 0, "sliding-window attention"},
    {"attention.clamp_kqv", 0, "clamped queries, keys and values"},
    {"attention.max_alibi_bias", 0, "ALiBi"},
    {"rope.scaling.attn_factor", 1, "a scaled attention"},
    {"logit_scale", 1, "scaled logits"},
    {"residual_scale", 1, "scaled residuals"},
}};

std::string Key(absl::string_view name) { return absl::StrCat(kPrefix, name); }

absl::Status Unsupported(const GgufMetadata& metadata, absl::string_view key, absl::string_view problem) {
  return absl::UnimplementedError(metadata.Error(key, problem).message());
}

// A positive integer of at most `max`.
absl::StatusOr<int32_t> Size(const GgufMetadata& metadata, absl::string_view name, int64_t max) {
  const std::string key = Key(name);
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t value, metadata.Int(key));
  if (value < 1 || value > max) {
    return metadata.Error(key, absl::StrCat(value, " is not from 1 to ", max, "; ", kDamagedFile));
  }
  return static_cast<int32_t>(value);
}

absl::StatusOr<int32_t> SizeOr(const GgufMetadata& metadata, absl::string_view name, int64_t max,
                               int32_t missing) {
  return metadata.Has(Key(name)) ? Size(metadata, name, max) : missing;
}

// As Size; some converters write an array with one value per layer.
absl::StatusOr<int32_t> SizeOfEveryLayer(const GgufMetadata& metadata, absl::string_view name, int64_t max,
                                         int32_t n_layers) {
  const std::string key = Key(name);
  if (!metadata.ArraySize(key).ok()) return Size(metadata, name, max);
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<int64_t> values, metadata.Ints(key, n_layers));
  for (const int64_t value : values) {
    if (value != values.front()) {
      return Unsupported(metadata, key, "layers of different sizes are not supported; serve another model");
    }
    if (value < 1 || value > max) {
      return metadata.Error(key, absl::StrCat(value, " is not from 1 to ", max, "; ", kDamagedFile));
    }
  }
  return static_cast<int32_t>(values.front());
}

absl::StatusOr<double> PositiveOr(const GgufMetadata& metadata, absl::string_view name, double missing) {
  const std::string key = Key(name);
  SPILLWAY_ASSIGN_OR_RETURN(const double value, metadata.FloatOr(key, missing));
  if (!std::isfinite(value) || value <= 0) {
    return metadata.Error(key, absl::StrCat(value, " is not a positive number; ", kDamagedFile));
  }
  return value;
}

absl::Status CheckArchitecture(const GgufFile& file) {
  const GgufMetadata& metadata = file.metadata();
  constexpr absl::string_view kArchitecture = "general.architecture";
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view architecture, metadata.String(kArchitecture));
  if (architecture != "llama") {
    return Unsupported(metadata, kArchitecture,
                       absl::StrCat("architecture ", Quoted(architecture),
                                    " is not supported; serve a model of architecture 'llama'"));
  }
  constexpr absl::string_view kType = "general.type";
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view type, metadata.StringOr(kType, "model"));
  if (type != "model") {
    return Unsupported(
        metadata, kType,
        absl::StrCat("the file holds ", Quoted(type), ", not a model; give the model's own file"));
  }
  return absl::OkStatus();
}

// Nothing that speaks of the architecture is passed over: it may change what the model computes.
absl::Status CheckKeys(const GgufMetadata& metadata) {
  for (const absl::string_view key : metadata.Keys()) {
    absl::string_view name = key;
    if (!absl::ConsumePrefix(&name, kPrefix)) continue;
    if (absl::c_linear_search(kKnownKeys, name)) continue;
    const auto neutral = std::find_if(kNeutralKeys.begin(), kNeutralKeys.end(),
                                      [&](const NeutralKey& candidate) { return candidate.key == name; });
    if (neutral != kNeutralKeys.end()) {
      absl::StatusOr<double> value = metadata.Float(key);
      if (!value.ok()) {
        SPILLWAY_ASSIGN_OR_RETURN(const int64_t integer, metadata.Int(key));
        value = static_cast<double>(integer);
      }
      if (*value == neutral->value) continue;
      return Unsupported(metadata, key,
                         absl::StrCat(*value, " means ", neutral->meaning,
                                      ", which is not supported; serve a model without it"));
    }
    if (name == "attention.causal") {
      SPILLWAY_ASSIGN_OR_RETURN(const bool causal, metadata.Bool(key));
      if (causal) continue;
      return Unsupported(metadata, key, "bidirectional attention is not supported; serve a causal model");
    }
    if (name == "tensor_data_layout") {
      SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view layout, metadata.String(key));
      if (layout == "Meta AI original pth") continue;  // Q and K permuted, as all current converters do
    }
    return Unsupported(metadata, key, absl::StrCat("the key is not known; ", kRemoveKey));
  }
  return absl::OkStatus();
}

absl::StatusOr<double> LinearRopeFactor(const GgufMetadata& metadata) {
  const std::string type_key = Key("rope.scaling.type");
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view type, metadata.StringOr(type_key, "linear"));
  if (type == "none") return 1.0;
  if (type != "linear") {
    return Unsupported(metadata, type_key,
                       absl::StrCat("RoPE scaling ", Quoted(type),
                                    " is not supported; serve a model with linear scaling or none"));
  }
  const std::string factor_key = Key("rope.scaling.factor");
  SPILLWAY_ASSIGN_OR_RETURN(const double legacy, metadata.FloatOr(Key("rope.scale_linear"), 1.0));
  SPILLWAY_ASSIGN_OR_RETURN(const double factor, metadata.FloatOr(factor_key, legacy));
  if (factor == 0) return 1.0;  // written by converters for "unscaled"
  const std::string used_key = metadata.Has(factor_key) ? factor_key : Key("rope.scale_linear");
  if (!std::isfinite(factor) || factor < 0) {
    return metadata.Error(used_key, absl::StrCat(factor, " is not a factor; ", kDamagedFile));
  }
  return factor;
}

absl::Status ReadRope(const GgufMetadata& metadata, ModelConfig& config) {
  SPILLWAY_ASSIGN_OR_RETURN(config.rope.theta, PositiveOr(metadata, "rope.freq_base", 10000.0));
  SPILLWAY_ASSIGN_OR_RETURN(config.rope.dims,
                            SizeOr(metadata, "rope.dimension_count", kWidthMax, config.d_head));
  if (config.rope.dims > config.d_head || config.rope.dims % 2 != 0) {
    const std::string key = Key("rope.dimension_count");
    const std::string problem = absl::StrCat(config.rope.dims, " is not an even part of a head of ",
                                             config.d_head, " elements; ", kDamagedFile);
    return metadata.Error(metadata.Has(key) ? key : Key("attention.head_count"), problem);
  }
  SPILLWAY_ASSIGN_OR_RETURN(config.rope.linear_factor, LinearRopeFactor(metadata));
  return absl::OkStatus();
}

absl::Status ReadHeads(const GgufMetadata& metadata, ModelConfig& config) {
  SPILLWAY_ASSIGN_OR_RETURN(config.n_heads,
                            SizeOfEveryLayer(metadata, "attention.head_count", kHeadsMax, config.n_layers));
  config.n_kv_heads = config.n_heads;
  if (metadata.Has(Key("attention.head_count_kv"))) {
    SPILLWAY_ASSIGN_OR_RETURN(
        config.n_kv_heads, SizeOfEveryLayer(metadata, "attention.head_count_kv", kHeadsMax, config.n_layers));
    if (config.n_heads % config.n_kv_heads != 0) {
      return metadata.Error(Key("attention.head_count_kv"),
                            absl::StrCat(config.n_kv_heads, " does not divide the ", config.n_heads,
                                         " query heads; ", kDamagedFile));
    }
  }
  if (metadata.Has(Key("attention.key_length"))) {
    SPILLWAY_ASSIGN_OR_RETURN(config.d_head, Size(metadata, "attention.key_length", kWidthMax));
  } else if (config.d_model % config.n_heads == 0) {
    config.d_head = config.d_model / config.n_heads;
  } else {
    return metadata.Error(Key("attention.head_count"),
                          absl::StrCat(config.n_heads, " does not divide the embedding length ",
                                       config.d_model, "; ", kDamagedFile));
  }
  if (config.d_head > device::kHeadElementsMax) {
    const bool stated = metadata.Has(Key("attention.key_length"));
    return Unsupported(metadata, Key(stated ? "attention.key_length" : "attention.head_count"),
                       absl::StrCat("heads of ", config.d_head, " elements, more than ",
                                    device::kHeadElementsMax, ", are not supported; serve another model"));
  }
  SPILLWAY_ASSIGN_OR_RETURN(const int32_t d_value,
                            SizeOr(metadata, "attention.value_length", kWidthMax, config.d_head));
  if (d_value != config.d_head) {
    return Unsupported(metadata, Key("attention.value_length"),
                       absl::StrCat(d_value, " differs from the key length ", config.d_head,
                                    ", which is not supported; serve another model"));
  }
  return absl::OkStatus();
}

absl::Status ReadRopeFactors(const GgufFile& file, ModelConfig& config) {
  const device::TensorView& tensor = *file.FindTensor("rope_freqs.weight");
  config.rope.freq_factors.resize(static_cast<size_t>(config.rope.dims / 2));
  device::DecodeToF32(tensor.encoding, tensor.data, tensor.elements(), config.rope.freq_factors.data());
  for (const float factor : config.rope.freq_factors) {
    if (!std::isfinite(factor) || factor <= 0) {
      return absl::InvalidArgumentError(absl::StrCat(file.path(), ": byte ", FileOffset(file, tensor),
                                                     ": tensor 'rope_freqs.weight': ", factor,
                                                     " is not a positive number; ", kDamagedFile));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTensors(const GgufFile& file, ModelConfig& config) {
  TensorChecklist checklist(file);
  config.has_tied_embedding = file.FindTensor("output.weight") == nullptr;
  SPILLWAY_ASSIGN_OR_RETURN(const bool has_rope_factors,
                            checklist.Allow("rope_freqs.weight", {config.rope.dims / 2}));
  if (has_rope_factors) SPILLWAY_RETURN_IF_ERROR(ReadRopeFactors(file, config));
  for (const ImpliedTensor& tensor : ImpliedTensors(config)) {
    SPILLWAY_RETURN_IF_ERROR(checklist.Require(tensor.name, tensor.shape));
  }
  return checklist.RefuseTheRest();
}

// The embedding says how many tokens there are; the metadata may repeat it.
absl::StatusOr<int32_t> VocabularySize(const GgufFile& file) {
  const device::TensorView* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::NotFoundError(absl::StrCat(
        file.path(),
        ": no matrix 'token_embd.weight'; the file holds no whole model: fetch or convert it again"));
  }
  const int64_t rows = embedding->shape[0];
  if (rows > kVocabularyMax) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor 'token_embd.weight': ", rows,
                                                   " rows are more than ", kVocabularyMax, "; ",
                                                   kDamagedFile));
  }
  SPILLWAY_ASSIGN_OR_RETURN(const int32_t stated, SizeOr(file.metadata(), "vocab_size", kVocabularyMax,
                                                         static_cast<int32_t>(rows)));
  if (stated != rows) {
    return file.metadata().Error(Key("vocab_size"), absl::StrCat(stated, ", but 'token_embd.weight' has ",
                                                                 rows, " rows; ", kDamagedFile));
  }
  return stated;
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  const GgufMetadata& metadata = file.metadata();
  SPILLWAY_RETURN_IF_ERROR(CheckArchitecture(file));
  SPILLWAY_RETURN_IF_ERROR(CheckKeys(metadata));
  ModelConfig config;
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view name, metadata.StringOr("general.name", ""));
  config.name = std::string(name);
  SPILLWAY_ASSIGN_OR_RETURN(config.n_layers, Size(metadata, "block_count", kLayersMax));
  SPILLWAY_ASSIGN_OR_RETURN(config.d_model, Size(metadata, "embedding_length", kWidthMax));
  SPILLWAY_ASSIGN_OR_RETURN(config.context_length, Size(metadata, "context_length", kContextMax));
  SPILLWAY_ASSIGN_OR_RETURN(config.d_ff,
                            SizeOfEveryLayer(metadata, "feed_forward_length", kWidthMax, config.n_layers));
  SPILLWAY_RETURN_IF_ERROR(ReadHeads(metadata, config));
  SPILLWAY_ASSIGN_OR_RETURN(const double epsilon, metadata.Float(Key("attention.layer_norm_rms_epsilon")));
  if (!(epsilon >= 0 && epsilon < 1)) {
    return metadata.Error(Key("attention.layer_norm_rms_epsilon"),
                          absl::StrCat(epsilon, " is not from 0 to 1; ", kDamagedFile));
  }
  config.norm_epsilon = static_cast<float>(epsilon);
  SPILLWAY_RETURN_IF_ERROR(ReadRope(metadata, config));
  SPILLWAY_ASSIGN_OR_RETURN(config.vocab_size, VocabularySize(file));
  SPILLWAY_RETURN_IF_ERROR(CheckTensors(file, config));
  return config;
}

}  // namespace spillway::model
