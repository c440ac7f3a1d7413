#include "engine/model/hugging_face_config.h"

#include <cmath>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/device/ops.h"
#include "engine/model/gguf_cursor.h"

namespace spillway::model {
namespace {

constexpr absl::string_view kCheckFile = "check the file or fetch it again";
constexpr absl::string_view kOtherModel = "which is not supported; serve another model";

// OPT's table of positions has two rows before that of position 0.
constexpr int32_t kOptPositionOffset = 2;
// torch.nn.LayerNorm's, which OPT's configuration cannot change.
constexpr float kOptNormEpsilon = 1e-5F;

// A positive integer of at most `max`.
absl::StatusOr<int32_t> Size(const JsonObject& json, absl::string_view key, int64_t max) {
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t value, json.Int(key));
  if (value < 1 || value > max) {
    return json.Error(key, absl::StrCat(value, " is not from 1 to ", max, "; ", kCheckFile));
  }
  return static_cast<int32_t>(value);
}

absl::StatusOr<int32_t> SizeOr(const JsonObject& json, absl::string_view key, int64_t max, int32_t missing) {
  return json.Has(key) ? Size(json, key, max) : missing;
}

absl::StatusOr<double> PositiveOr(const JsonObject& json, absl::string_view key, double missing) {
  SPILLWAY_ASSIGN_OR_RETURN(const double value, json.FloatOr(key, missing));
  if (value <= 0) return json.Error(key, absl::StrCat(value, " is not a positive number; ", kCheckFile));
  return value;
}

// A switch that has to stand as Spillway computes.
absl::Status Require(const JsonObject& json, absl::string_view key, bool wanted, absl::string_view meaning) {
  SPILLWAY_ASSIGN_OR_RETURN(const bool value, json.BoolOr(key, wanted));
  if (value == wanted) return absl::OkStatus();
  return json.Unsupported(key, absl::StrCat(value ? "true" : "false", " means ", meaning, ", ", kOtherModel));
}

absl::StatusOr<Family> ReadFamily(const JsonObject& json) {
  SPILLWAY_ASSIGN_OR_RETURN(const std::string type, json.String("model_type"));
  if (type != "llama" && type != "opt") {
    return json.Unsupported("model_type", absl::StrCat("model type ", Quoted(type),
                                                       " is not supported; serve one of 'llama' or 'opt'"));
  }
  const absl::string_view wanted = type == "opt" ? "OPTForCausalLM" : "LlamaForCausalLM";
  if (json.Has("architectures")) {
    SPILLWAY_ASSIGN_OR_RETURN(const std::vector<std::string> architectures, json.Strings("architectures"));
    if (!absl::c_linear_search(architectures, wanted)) {
      return json.Unsupported(
          "architectures", absl::StrCat(architectures.empty() ? "''" : Quoted(architectures.front()),
                                        " is not supported; serve a model of architecture '", wanted, "'"));
    }
  }
  // Other code, and other encodings, than those of Transformers' own class.
  for (const absl::string_view key : {"auto_map", "quantization_config"}) {
    if (!json.Has(key)) continue;
    return json.Unsupported(
        key, key == "auto_map" ? absl::StrCat("the model brings code of its own, ", kOtherModel)
                               : absl::StrCat("quantised weights of a Hugging Face model are not supported; "
                                              "serve the original weights, or a GGUF file"));
  }
  return type == "opt" ? Family::kOpt : Family::kLlama;
}

// Llama 3.1's: low frequencies are stretched, high ones not, those between in part.
// (Transformers, modeling_rope_utils.py, _compute_llama3_parameters.)
absl::Status ReadLlama3Factors(const JsonObject& scaling, RopeConfig& rope) {
  SPILLWAY_ASSIGN_OR_RETURN(const double factor, PositiveOr(scaling, "factor", 1));
  SPILLWAY_ASSIGN_OR_RETURN(const double low, PositiveOr(scaling, "low_freq_factor", 1));
  SPILLWAY_ASSIGN_OR_RETURN(const double high, PositiveOr(scaling, "high_freq_factor", 4));
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t trained,
                            Size(scaling, "original_max_position_embeddings", kContextMax));
  if (high <= low) {
    return scaling.Error("high_freq_factor",
                         absl::StrCat(high, " is not above the low_freq_factor ", low, "; ", kCheckFile));
  }
  for (int32_t i = 0; i < rope.dims / 2; ++i) {
    const double wavelength = 2 * M_PI * std::pow(rope.theta, 2.0 * i / rope.dims);
    const double turns = static_cast<double>(trained) / wavelength;
    double divisor = factor;
    if (turns > high) {
      divisor = 1;
    } else if (turns >= low) {
      const double smooth = (turns - low) / (high - low);
      divisor = 1 / ((1 - smooth) / factor + smooth);
    }
    rope.freq_factors.push_back(static_cast<float>(divisor));
  }
  return absl::OkStatus();
}

absl::Status ReadScaling(const JsonObject& scaling, RopeConfig& rope) {
  const absl::string_view key = scaling.Has("rope_type") ? "rope_type" : "type";
  SPILLWAY_ASSIGN_OR_RETURN(const std::string type, scaling.StringOr(key, "default"));
  if (type == "default") return absl::OkStatus();
  if (type == "llama3") return ReadLlama3Factors(scaling, rope);
  if (type == "linear") {
    SPILLWAY_ASSIGN_OR_RETURN(rope.linear_factor, PositiveOr(scaling, "factor", 1));
    return absl::OkStatus();
  }
  return scaling.Unsupported(key, absl::StrCat("RoPE scaling ", Quoted(type),
                                               " is not supported; serve a model with 'linear', 'llama3' or "
                                               "none"));
}

absl::Status ReadRope(const JsonObject& json, RopeConfig& rope, int32_t d_head) {
  rope.style = RopeStyle::kHalf;
  rope.dims = d_head;
  if (d_head % 2 != 0) {
    return json.Error(json.Has("head_dim") ? "head_dim" : "num_attention_heads",
                      absl::StrCat("a head of ", d_head, " elements cannot be rotated; ", kCheckFile));
  }
  SPILLWAY_ASSIGN_OR_RETURN(rope.theta, PositiveOr(json, "rope_theta", 10000));
  SPILLWAY_ASSIGN_OR_RETURN(const double partial, json.FloatOr("partial_rotary_factor", 1));
  if (partial != 1) {
    return json.Unsupported("partial_rotary_factor",
                            absl::StrCat(partial, " means heads rotated in part, ", kOtherModel));
  }
  // Transformers 5 moved theta and scaling into one object.
  for (const absl::string_view key : {"rope_parameters", "rope_scaling"}) {
    if (!json.Has(key)) continue;
    SPILLWAY_ASSIGN_OR_RETURN(const JsonObject scaling, json.Object(key));
    SPILLWAY_ASSIGN_OR_RETURN(rope.theta, PositiveOr(scaling, "rope_theta", rope.theta));
    return ReadScaling(scaling, rope);
  }
  return absl::OkStatus();
}

absl::Status CheckHead(const JsonObject& json, absl::string_view key, int32_t d_head) {
  if (d_head <= device::kHeadElementsMax) return absl::OkStatus();
  return json.Unsupported(key, absl::StrCat("heads of ", d_head, " elements, more than ",
                                            device::kHeadElementsMax, ", ", kOtherModel));
}

absl::Status ReadHeads(const JsonObject& json, ModelConfig& config) {
  SPILLWAY_ASSIGN_OR_RETURN(config.n_heads, Size(json, "num_attention_heads", kHeadsMax));
  config.n_kv_heads = config.n_heads;
  if (config.family == Family::kLlama) {
    SPILLWAY_ASSIGN_OR_RETURN(config.n_kv_heads,
                              SizeOr(json, "num_key_value_heads", kHeadsMax, config.n_heads));
    if (config.n_heads % config.n_kv_heads != 0) {
      return json.Error("num_key_value_heads", absl::StrCat(config.n_kv_heads, " does not divide the ",
                                                            config.n_heads, " query heads; ", kCheckFile));
    }
    if (json.Has("head_dim")) {
      SPILLWAY_ASSIGN_OR_RETURN(config.d_head, Size(json, "head_dim", kWidthMax));
      return CheckHead(json, "head_dim", config.d_head);
    }
  }
  if (config.d_model % config.n_heads != 0) {
    return json.Error("num_attention_heads", absl::StrCat(config.n_heads, " does not divide the hidden size ",
                                                          config.d_model, "; ", kCheckFile));
  }
  config.d_head = config.d_model / config.n_heads;
  return CheckHead(json, "num_attention_heads", config.d_head);
}

absl::Status ReadActivation(const JsonObject& json, absl::string_view key, absl::string_view wanted) {
  SPILLWAY_ASSIGN_OR_RETURN(const std::string activation, json.StringOr(key, wanted));
  if (activation == wanted) return absl::OkStatus();
  return json.Unsupported(
      key, absl::StrCat("activation ", Quoted(activation), " instead of '", wanted, "', ", kOtherModel));
}

absl::Status ReadLlama(const JsonObject& json, ModelConfig& config) {
  SPILLWAY_RETURN_IF_ERROR(ReadActivation(json, "hidden_act", "silu"));
  SPILLWAY_ASSIGN_OR_RETURN(config.d_ff, Size(json, "intermediate_size", kWidthMax));
  SPILLWAY_ASSIGN_OR_RETURN(config.context_length,
                            SizeOr(json, "max_position_embeddings", kContextMax, 2048));
  SPILLWAY_ASSIGN_OR_RETURN(const double epsilon, json.FloatOr("rms_norm_eps", 1e-6));
  if (!(epsilon >= 0 && epsilon < 1)) {
    return json.Error("rms_norm_eps", absl::StrCat(epsilon, " is not from 0 to 1; ", kCheckFile));
  }
  config.norm_epsilon = static_cast<float>(epsilon);
  SPILLWAY_ASSIGN_OR_RETURN(config.has_tied_embedding, json.BoolOr("tie_word_embeddings", false));
  SPILLWAY_ASSIGN_OR_RETURN(config.has_biases, json.BoolOr("attention_bias", false));
  SPILLWAY_ASSIGN_OR_RETURN(const bool mlp_bias, json.BoolOr("mlp_bias", false));
  if (mlp_bias != config.has_biases) {
    return json.Unsupported(mlp_bias ? "mlp_bias" : "attention_bias",
                            absl::StrCat("biases on some projections and not on others, ", kOtherModel));
  }
  return ReadRope(json, config.rope, config.d_head);
}

absl::Status ReadOpt(const JsonObject& json, ModelConfig& config) {
  SPILLWAY_RETURN_IF_ERROR(Require(json, "do_layer_norm_before", true,
                                   "norms after the residual connection (post-norm, OPT-350M)"));
  SPILLWAY_RETURN_IF_ERROR(
      Require(json, "_remove_final_layer_norm", false, "no norm before the output matrix"));
  SPILLWAY_RETURN_IF_ERROR(Require(json, "layer_norm_elementwise_affine", true, "norms without weights"));
  SPILLWAY_RETURN_IF_ERROR(ReadActivation(json, "activation_function", "relu"));
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t projected, json.IntOr("word_embed_proj_dim", config.d_model));
  if (projected != config.d_model) {
    return json.Unsupported("word_embed_proj_dim", absl::StrCat(projected, " differs from the hidden size ",
                                                                config.d_model, ", ", kOtherModel));
  }
  config.norm = NormKind::kLayer;
  config.norm_epsilon = kOptNormEpsilon;
  config.activation = ActivationKind::kRelu;
  config.position = PositionKind::kLearned;
  config.position_offset = kOptPositionOffset;
  SPILLWAY_ASSIGN_OR_RETURN(config.d_ff, Size(json, "ffn_dim", kWidthMax));
  SPILLWAY_ASSIGN_OR_RETURN(config.context_length,
                            SizeOr(json, "max_position_embeddings", kContextMax, 2048));
  SPILLWAY_ASSIGN_OR_RETURN(config.has_biases, json.BoolOr("enable_bias", true));
  SPILLWAY_ASSIGN_OR_RETURN(config.has_tied_embedding, json.BoolOr("tie_word_embeddings", true));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromHuggingFace(const JsonObject& json) {
  ModelConfig config;
  SPILLWAY_ASSIGN_OR_RETURN(config.family, ReadFamily(json));
  SPILLWAY_ASSIGN_OR_RETURN(config.n_layers, Size(json, "num_hidden_layers", kLayersMax));
  SPILLWAY_ASSIGN_OR_RETURN(config.d_model, Size(json, "hidden_size", kWidthMax));
  SPILLWAY_ASSIGN_OR_RETURN(config.vocab_size, Size(json, "vocab_size", kVocabularyMax));
  SPILLWAY_RETURN_IF_ERROR(ReadHeads(json, config));
  SPILLWAY_RETURN_IF_ERROR(config.family == Family::kOpt ? ReadOpt(json, config) : ReadLlama(json, config));
  return config;
}

absl::StatusOr<ModelConfig> ReadHuggingFaceConfig(const std::string& path) {
  std::error_code error;
  std::string file = path;
  if (std::filesystem::is_directory(path, error)) {
    file = (std::filesystem::path(path) / "config.json").string();
    if (!std::filesystem::exists(file, error)) {
      return absl::NotFoundError(absl::StrCat(
          path, ": a directory without config.json; give a Hugging Face model's directory, or a .gguf file"));
    }
  }
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json root, ReadJsonFile(file));
  return ConfigFromHuggingFace(JsonObject(root, file));
}

}  // namespace spillway::model
