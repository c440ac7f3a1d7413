#include "engine/model/hugging_face_config.h"

#include <cmath>

#include "engine/model/implied_tensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 160},
          {"num_hidden_layers", 3},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 500},
          {"max_position_embeddings", 1024},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 500000.0}};
}

Json Opt() {
  return {{"architectures", {"OPTForCausalLM"}},
          {"model_type", "opt"},
          {"hidden_size", 64},
          {"ffn_dim", 256},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"vocab_size", 500},
          {"max_position_embeddings", 128},
          {"word_embed_proj_dim", 64},
          {"do_layer_norm_before", true}};
}

absl::StatusOr<ModelConfig> Read(const Json& json) {
  return ConfigFromHuggingFace(JsonObject(json, "config.json"));
}

Json With(Json json, const std::string& key, const Json& value) {
  json[key] = value;
  return json;
}

TEST(ConfigFromHuggingFace, ALlamaIsReadWhole) {
  const auto config = Read(Llama());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, Family::kLlama);
  EXPECT_EQ(config->n_layers, 3);
  EXPECT_EQ(config->d_model, 64);
  EXPECT_EQ(config->d_ff, 160);
  EXPECT_EQ(config->n_heads, 4);
  EXPECT_EQ(config->n_kv_heads, 2);
  EXPECT_EQ(config->d_head, 16);
  EXPECT_EQ(config->vocab_size, 500);
  EXPECT_EQ(config->context_length, 1024);
  EXPECT_EQ(config->norm, NormKind::kRms);
  EXPECT_FLOAT_EQ(config->norm_epsilon, 1e-5F);
  EXPECT_EQ(config->activation, ActivationKind::kSiluGated);
  EXPECT_EQ(config->position, PositionKind::kRotary);
  EXPECT_EQ(config->rope.style, RopeStyle::kHalf);
  EXPECT_EQ(config->rope.theta, 500000);
  EXPECT_EQ(config->rope.dims, 16);
  EXPECT_FALSE(config->has_biases);
  EXPECT_FALSE(config->has_tied_embedding);
}

TEST(ConfigFromHuggingFace, AnOptIsReadWhole) {
  const auto config = Read(Opt());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, Family::kOpt);
  EXPECT_EQ(config->d_ff, 256);
  EXPECT_EQ(config->n_kv_heads, 4);
  EXPECT_EQ(config->norm, NormKind::kLayer);
  EXPECT_FLOAT_EQ(config->norm_epsilon, 1e-5F);
  EXPECT_EQ(config->activation, ActivationKind::kRelu);
  EXPECT_EQ(config->position, PositionKind::kLearned);
  EXPECT_EQ(config->position_offset, 2);
  EXPECT_EQ(config->context_length, 128);
  EXPECT_TRUE(config->has_biases);
  EXPECT_TRUE(config->has_tied_embedding);
  // Two tables, the last norm, and of a layer: two norms, four projections of the attention, two others.
  const int64_t layer = 2 * 2 * 64 + 4 * (64 * 64 + 64) + (256 * 64 + 256) + (64 * 256 + 64);
  EXPECT_EQ(config->parameter_count(), 500 * 64 + 130 * 64 + 2 * 64 + 2 * layer);
}

TEST(ConfigFromHuggingFace, HeadDimAndBiasesOfLlamaAreRead) {
  auto config = Read(With(Llama(), "head_dim", 32));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->d_head, 32);
  EXPECT_EQ(config->d_q(), 128);
  config = Read(With(With(Llama(), "attention_bias", true), "mlp_bias", true));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->has_biases);
}

TEST(ConfigFromHuggingFace, Llama3ScalingStretchesLowFrequenciesAlone) {
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  Json json = With(With(Llama(), "rope_scaling", scaling), "head_dim", 128);
  const auto config = Read(json);
  ASSERT_TRUE(config.ok()) << config.status();
  const std::vector<float>& factors = config->rope.freq_factors;
  ASSERT_EQ(factors.size(), 64u);
  EXPECT_EQ(factors.front(), 1);
  EXPECT_EQ(factors.back(), 8);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double wavelength = 2 * M_PI * std::pow(500000.0, static_cast<double>(i) / 64);
    const float lowest = wavelength > 8192.0 ? 8.0F : i > 0 ? factors[i - 1] : 1.0F;
    const float highest = wavelength < 8192.0 / 4 ? 1.0F : 8.0F;
    EXPECT_GE(factors[i], lowest) << i;
    EXPECT_LE(factors[i], highest) << i;
  }
  // Transformers 5 writes theta and scaling into one object.
  Json moved = With(With(Llama(), "rope_parameters", With(scaling, "rope_theta", 500000.0)), "head_dim", 128);
  moved.erase("rope_theta");
  const auto same = Read(moved);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(same->rope.freq_factors, factors);
  EXPECT_EQ(same->rope.theta, 500000);
}

TEST(ConfigFromHuggingFace, LinearScalingIsRead) {
  const auto config = Read(With(Llama(), "rope_scaling", {{"type", "linear"}, {"factor", 4.0}}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.linear_factor, 4);
}

TEST(ConfigFromHuggingFace, WhatChangesTheArithmeticIsRefusedByName) {
  const std::pair<Json, const char*> cases[] = {
      {With(Llama(), "model_type", "mixtral"), "mixtral"},
      {With(Llama(), "architectures", {"LlamaForSequenceClassification"}), "LlamaForSequenceClassification"},
      {With(Llama(), "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}), "yarn"},
      {With(Llama(), "rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}), "dynamic"},
      {With(Llama(), "hidden_act", "gelu"), "hidden_act"},
      {With(Llama(), "attention_bias", true), "attention_bias"},
      {With(Llama(), "mlp_bias", true), "mlp_bias"},
      {With(Llama(), "partial_rotary_factor", 0.5), "partial_rotary_factor"},
      {With(Llama(), "quantization_config", {{"quant_method", "gptq"}}), "quantization_config"},
      {With(Llama(), "auto_map", {{"AutoModel", "x.Y"}}), "auto_map"},
      {With(Llama(), "head_dim", 1024), "head_dim"},
      {With(Opt(), "do_layer_norm_before", false), "do_layer_norm_before"},
      {With(Opt(), "word_embed_proj_dim", 32), "word_embed_proj_dim"},
      {With(Opt(), "_remove_final_layer_norm", true), "_remove_final_layer_norm"},
      {With(Opt(), "layer_norm_elementwise_affine", false), "layer_norm_elementwise_affine"},
      {With(Opt(), "activation_function", "gelu"), "activation_function"},
  };
  for (const auto& [json, word] : cases) {
    const auto config = Read(json);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kUnimplemented) << word;
    EXPECT_THAT(std::string(config.status().message()),
                AllOf(HasSubstr("config.json: field '"), HasSubstr(word), HasSubstr("serve ")));
  }
}

TEST(ConfigFromHuggingFace, ImpossibleOrMissingSizesAreRefusedByName) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                          "intermediate_size", "max_position_embeddings", "num_key_value_heads"}) {
    for (const Json& value :
         {Json(0), Json(-1), Json(1e10), Json(int64_t{1} << 40), Json("64"), Json(true)}) {
      const auto config = Read(With(Llama(), key, value));
      EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << key << value;
      EXPECT_THAT(std::string(config.status().message()), HasSubstr(key));
    }
  }
  Json without = Llama();
  without.erase("hidden_size");
  EXPECT_EQ(Read(without).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(Read(With(Llama(), "num_key_value_heads", 3)).ok());
  EXPECT_FALSE(Read(With(Llama(), "num_attention_heads", 6)).ok());
  EXPECT_FALSE(Read(With(Llama(), "head_dim", 7)).ok()) << "odd heads cannot be rotated";
  EXPECT_FALSE(Read(With(Llama(), "rope_theta", 0)).ok());
  EXPECT_FALSE(Read(With(Llama(), "rms_norm_eps", -1)).ok());
  EXPECT_FALSE(Read(With(Llama(), "rope_scaling", {{"type", "linear"}, {"factor", -4.0}})).ok());
}

}  // namespace
}  // namespace spillway::model
