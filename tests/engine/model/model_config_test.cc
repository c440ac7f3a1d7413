#include "engine/model/model_config.h"

#include <bit>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "engine/model/gguf.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/encode.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

using fakes::GgufWriter;
using fakes::TinyLlamaOptions;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<ModelConfig> Read(const std::string& bytes) {
  const auto file = GgufFile::Parse(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "tiny.gguf");
  if (!file.ok()) return file.status();
  return ConfigFromGguf(*file);
}

absl::StatusOr<ModelConfig> Amended(const std::function<void(GgufWriter&)>& amend,
                                    TinyLlamaOptions options = {}) {
  options.amend = amend;
  return Read(fakes::TinyLlamaBytes(options));
}

// The tiny model with some bytes exchanged for as many others, wherever they are.
absl::StatusOr<ModelConfig> Exchanged(const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  std::string bytes = fakes::TinyLlamaBytes({});
  size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  for (; at != std::string::npos; at = bytes.find(from, at + 1)) bytes.replace(at, from.size(), to);
  return Read(bytes);
}

// The tiny model with another number under `key`.
absl::StatusOr<ModelConfig> WithUint32(const std::string& key, uint32_t from, uint32_t to) {
  const std::string head = fakes::LeString(key) + fakes::Le(uint32_t{4});
  return Exchanged(head + fakes::Le(from), head + fakes::Le(to));
}

std::string ErrorOf(const absl::StatusOr<ModelConfig>& config) {
  return std::string(config.status().message());
}

void ExpectUnsupported(const absl::StatusOr<ModelConfig>& config, const std::string& what) {
  EXPECT_EQ(config.status().code(), absl::StatusCode::kUnimplemented) << config.status();
  EXPECT_THAT(ErrorOf(config), AllOf(HasSubstr("tiny.gguf: byte "), HasSubstr(what), HasSubstr("; ")));
}

std::vector<uint8_t> Zeros(int64_t elements) {
  return std::vector<uint8_t>(static_cast<size_t>(4 * elements));
}

TEST(ConfigFromGguf, ATinyLlamaIsReadWhole) {
  const auto config = Read(fakes::TinyLlamaBytes({.n_layers = 3}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, Family::kLlama);
  EXPECT_EQ(config->name, "Tiny Llama");
  EXPECT_EQ(config->n_layers, 3);
  EXPECT_EQ(config->d_model, 64);
  EXPECT_EQ(config->n_heads, 4);
  EXPECT_EQ(config->n_kv_heads, 2);
  EXPECT_EQ(config->d_head, 16);
  EXPECT_EQ(config->d_ff, 128);
  EXPECT_EQ(config->vocab_size, 320);
  EXPECT_EQ(config->context_length, 512);
  EXPECT_EQ(config->norm, NormKind::kRms);
  EXPECT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->activation, ActivationKind::kSiluGated);
  EXPECT_EQ(config->position, PositionKind::kRotary);
  EXPECT_EQ(config->rope.dims, 16);
  EXPECT_EQ(config->rope.theta, 10000);
  EXPECT_EQ(config->rope.style, RopeStyle::kInterleaved);
  EXPECT_EQ(config->rope.linear_factor, 1);
  EXPECT_THAT(config->rope.freq_factors, IsEmpty());
  EXPECT_FALSE(config->has_biases);
  EXPECT_TRUE(config->has_tied_embedding);
}

TEST(ModelConfig, BytesPerTokenAreThoseOfTheCostModel) {
  const auto config = Read(fakes::TinyLlamaBytes({}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->d_kv(), 32);
  EXPECT_EQ(config->beta_bytes(2), 2 * 32 * 2);
  EXPECT_EQ(config->chi_bytes(2), 64 * 2);
}

TEST(ModelConfig, ParametersAreTheFilesElements) {
  for (const bool tied : {true, false}) {
    const std::string bytes = fakes::TinyLlamaBytes({.n_layers = 3, .has_tied_embedding = tied});
    const auto file = GgufFile::Parse(
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "tiny.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    int64_t elements = 0;
    for (const device::TensorView& tensor : file->tensors()) elements += tensor.elements();
    const auto config = ConfigFromGguf(*file);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->has_tied_embedding, tied);
    EXPECT_EQ(config->parameter_count(), elements);
  }
}

TEST(ConfigFromGguf, EveryEncodingIsAccepted) {
  for (int encoding = 0; encoding <= static_cast<int>(device::Encoding::kQ6_K); ++encoding) {
    const auto config = Read(fakes::TinyLlamaBytes(
        {.n_layers = 1, .d_model = 256, .d_ff = 256, .encoding = static_cast<device::Encoding>(encoding)}));
    EXPECT_TRUE(config.ok()) << config.status();
  }
}

TEST(ConfigFromGguf, DefaultsAreThoseOfTheFormat) {
  GgufWriter writer;
  writer.String("general.architecture", "llama")
      .Uint32("llama.block_count", 1)
      .Uint32("llama.context_length", 8)
      .Uint32("llama.embedding_length", 8)
      .Uint32("llama.feed_forward_length", 4)
      .Uint32("llama.attention.head_count", 2)
      .Float32("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  const auto add = [&](const std::string& name, const std::vector<int64_t>& shape) {
    int64_t elements = 1;
    for (const int64_t extent : shape) elements *= extent;
    writer.Tensor(name, shape, device::Encoding::kF32, Zeros(elements));
  };
  add("token_embd.weight", {5, 8});
  add("output_norm.weight", {8});
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    add(std::string("blk.0.") + name + ".weight", {8, 8});
  }
  for (const char* name : {"attn_norm", "ffn_norm"}) add(std::string("blk.0.") + name + ".weight", {8});
  add("blk.0.ffn_gate.weight", {4, 8});
  add("blk.0.ffn_up.weight", {4, 8});
  add("blk.0.ffn_down.weight", {8, 4});
  const auto config = Read(writer.Bytes());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->n_kv_heads, 2);
  EXPECT_EQ(config->d_head, 4);
  EXPECT_EQ(config->rope.dims, 4);
  EXPECT_EQ(config->rope.theta, 10000);
  EXPECT_EQ(config->vocab_size, 5);
  EXPECT_EQ(config->name, "");
}

TEST(ConfigFromGguf, RopeFactorsAreRead) {
  const auto config = Read(fakes::TinyLlamaBytes({.has_rope_factors = true}));
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->rope.freq_factors.size(), 8u);
  EXPECT_EQ(config->rope.freq_factors[0], 1.0f);
  EXPECT_EQ(config->rope.freq_factors[4], 4.5f);
}

TEST(ConfigFromGguf, RopeFactorsMustBePositiveAndOnePerPair) {
  EXPECT_THAT(ErrorOf(Amended([](GgufWriter& writer) {
                writer.Tensor("rope_freqs.weight", {8}, device::Encoding::kF32, Zeros(8));
              })),
              HasSubstr("'rope_freqs.weight': 0 is not a positive number"));
  EXPECT_THAT(ErrorOf(Amended([](GgufWriter& writer) {
                writer.Tensor("rope_freqs.weight", {9}, device::Encoding::kF32, Zeros(9));
              })),
              HasSubstr("'rope_freqs.weight': shape [9], wanted [8]"));
}

TEST(ConfigFromGguf, LinearRopeScalingIsRead) {
  const auto scaled = [](const std::string& type, float factor) {
    return Amended([&](GgufWriter& writer) {
      writer.String("llama.rope.scaling.type", type).Float32("llama.rope.scaling.factor", factor);
    });
  };
  EXPECT_EQ(scaled("linear", 4)->rope.linear_factor, 4);
  EXPECT_EQ(scaled("none", 4)->rope.linear_factor, 1);
  EXPECT_EQ(Amended([](GgufWriter& w) { w.Float32("llama.rope.scale_linear", 2); })->rope.linear_factor, 2);
  EXPECT_EQ(scaled("linear", 0)->rope.linear_factor, 1);
  EXPECT_THAT(ErrorOf(scaled("linear", -1)), HasSubstr("'llama.rope.scaling.factor': -1 is not a factor"));
  EXPECT_THAT(ErrorOf(scaled("linear", NAN)), HasSubstr("'llama.rope.scaling.factor': nan is not a factor"));
  ExpectUnsupported(scaled("yarn", 4), "RoPE scaling 'yarn' is not supported");
  ExpectUnsupported(scaled("longrope", 4), "RoPE scaling 'longrope' is not supported");
}

TEST(ConfigFromGguf, OtherArchitecturesAreRefusedByName) {
  ExpectUnsupported(Exchanged(fakes::LeString("llama"), fakes::LeString("qwen2")),
                    "architecture 'qwen2' is not supported; serve a model of architecture 'llama'");
}

TEST(ConfigFromGguf, OtherKindsOfFileAreRefusedByName) {
  ExpectUnsupported(Amended([](GgufWriter& w) { w.String("general.type", "adapter"); }),
                    "the file holds 'adapter', not a model");
  EXPECT_TRUE(Amended([](GgufWriter& w) { w.String("general.type", "model"); }).ok());
}

// A key that changes what the model computes is never passed over.
TEST(ConfigFromGguf, WhatChangesTheArithmeticIsRefusedByName) {
  ExpectUnsupported(Amended([](GgufWriter& w) { w.Uint32("llama.expert_count", 8); }),
                    "'llama.expert_count': 8 means a mixture of experts");
  ExpectUnsupported(Amended([](GgufWriter& w) { w.Uint32("llama.attention.sliding_window", 4096); }),
                    "sliding-window attention");
  ExpectUnsupported(Amended([](GgufWriter& w) { w.Float32("llama.logit_scale", 0.5f); }), "scaled logits");
  ExpectUnsupported(Amended([](GgufWriter& w) { w.Float32("llama.rope.scaling.attn_factor", 1.5f); }),
                    "a scaled attention");
  ExpectUnsupported(Amended([](GgufWriter& w) { w.Bool("llama.attention.causal", false); }), "bidirectional");
  ExpectUnsupported(Amended([](GgufWriter& w) { w.Uint32("llama.attention.value_length", 32); }),
                    "32 differs from the key length 16");
  ExpectUnsupported(
      Amended([](GgufWriter& w) { w.Uint32("llama.some_new_trick", 1); }),
      "'llama.some_new_trick': the key is not known; if it does not change what the model computes, "
      "remove it");
  ExpectUnsupported(Amended([](GgufWriter& w) { w.String("llama.tensor_data_layout", "other"); }),
                    "'llama.tensor_data_layout'");
}

TEST(ConfigFromGguf, KeysThatChangeNothingAreAccepted) {
  const auto config = Amended([](GgufWriter& writer) {
    writer.Uint32("llama.expert_count", 0)
        .Bool("llama.attention.causal", true)
        .Float32("llama.rope.scaling.attn_factor", 1)
        .Uint32("llama.attention.key_length", 16)
        .Uint32("llama.attention.value_length", 16)
        .String("llama.tensor_data_layout", "Meta AI original pth")
        .Uint32("general.file_type", 3)
        .String("some.other.tool", "was here");
  });
  EXPECT_TRUE(config.ok()) << config.status();
}

TEST(ConfigFromGguf, TensorsThatItDoesNotComputeWithAreRefusedByName) {
  ExpectUnsupported(
      Amended([](GgufWriter& w) { w.Tensor("blk.0.attn_q.bias", {64}, device::Encoding::kF32, Zeros(64)); }),
      "tensor 'blk.0.attn_q.bias': biases are not supported");
  ExpectUnsupported(Amended([](GgufWriter& w) {
                      w.Tensor("blk.2.attn_norm.weight", {64}, device::Encoding::kF32, Zeros(64));
                      w.Tensor("blk.2.ffn_norm.weight", {64}, device::Encoding::kF32, Zeros(64));
                    }),
                    "tensor 'blk.2.attn_norm.weight' and 1 more: not part of architecture 'llama'");
}

TEST(ConfigFromGguf, EveryTensorIsNeededInItsShape) {
  const std::vector<std::string> needed = {"token_embd",        "output_norm",    "blk.1.attn_norm",
                                           "blk.1.attn_q",      "blk.1.attn_k",   "blk.1.attn_v",
                                           "blk.1.attn_output", "blk.1.ffn_norm", "blk.1.ffn_gate",
                                           "blk.1.ffn_up",      "blk.1.ffn_down"};
  for (const std::string& name : needed) {
    std::string other = name;
    other.back() = '!';
    const auto config = Exchanged(fakes::LeString(name + ".weight"), fakes::LeString(other + ".weight"));
    EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound) << name;
    EXPECT_THAT(ErrorOf(config), HasSubstr("'" + name + ".weight'"));
  }
  // Another inner size makes one shape wrong, and says both.
  const auto config = WithUint32("llama.feed_forward_length", 128, 96);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(ErrorOf(config), HasSubstr("tensor 'blk.0.ffn_gate.weight': shape [128, 64], wanted [96, 64]"));
}

TEST(ConfigFromGguf, TransposedMatrixIsRefused) {
  const std::string row = fakes::LeString("blk.1.ffn_gate.weight") + fakes::Le(uint32_t{2});
  const std::string right = fakes::Le(uint64_t{64}) + fakes::Le(uint64_t{128});
  const std::string transposed = fakes::Le(uint64_t{128}) + fakes::Le(uint64_t{64});
  EXPECT_THAT(ErrorOf(Exchanged(row + right, row + transposed)),
              HasSubstr("tensor 'blk.1.ffn_gate.weight': shape [64, 128], wanted [128, 64]"));
}

TEST(ConfigFromGguf, ImpossibleSizesAreRefused) {
  EXPECT_THAT(ErrorOf(WithUint32("llama.block_count", 2, 0)), HasSubstr("0 is not from 1 to"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.block_count", 2, UINT32_MAX)),
              HasSubstr("4294967295 is not from 1 to"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.block_count", 2, 3)),
              HasSubstr("'blk.2.attn_norm.weight' of shape [64] is missing"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.context_length", 512, 0)), HasSubstr("'llama.context_length': 0"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.attention.head_count", 4, 3)),
              HasSubstr("2 does not divide the 3 query heads"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.attention.head_count", 4, 6)),
              HasSubstr("6 does not divide the embedding length 64"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.attention.head_count_kv", 2, 0)), HasSubstr("0 is not from 1 to"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.rope.dimension_count", 16, 17)),
              HasSubstr("17 is not an even part of a head of 16"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.rope.dimension_count", 16, 18)),
              HasSubstr("18 is not an even part of a head of 16"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.rope.dimension_count", 16, 15)), HasSubstr("15 is not an even part"));
  EXPECT_THAT(ErrorOf(WithUint32("llama.vocab_size", 320, 321)),
              HasSubstr("321, but 'token_embd.weight' has 320 rows"));
}

TEST(ConfigFromGguf, ImpossibleNumbersAreRefused) {
  for (const float theta : {0.0f, -1.0f, NAN, INFINITY}) {
    const auto config = Read(fakes::TinyLlamaBytes({.rope_theta = theta}));
    EXPECT_THAT(ErrorOf(config), HasSubstr("'llama.rope.freq_base'"));
  }
  for (const float epsilon : {-1e-5f, 1.0f, NAN}) {
    const std::string head =
        fakes::LeString("llama.attention.layer_norm_rms_epsilon") + fakes::Le(uint32_t{6});
    const auto config = Exchanged(head + fakes::Le(std::bit_cast<uint32_t>(1e-5f)),
                                  head + fakes::Le(std::bit_cast<uint32_t>(epsilon)));
    EXPECT_THAT(ErrorOf(config), HasSubstr("is not from 0 to 1"));
  }
}

TEST(ConfigFromGguf, SizesOfEveryLayerMustAgree) {
  const auto with_heads = [](const std::vector<int32_t>& heads) {
    std::string bytes = fakes::TinyLlamaBytes({});
    const std::string key = fakes::LeString("llama.attention.head_count") + fakes::Le(uint32_t{4});
    std::string array = fakes::LeString("llama.attention.head_count") + fakes::Le(uint32_t{9}) +
                        fakes::Le(uint32_t{5}) + fakes::Le(static_cast<uint64_t>(heads.size()));
    for (const int32_t n : heads) array += fakes::Le(static_cast<uint32_t>(n));
    // The pairs grow, so the tensors' padding shrinks or grows; a writer would do the same.
    const auto file = GgufFile::Parse(
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "tiny.gguf");
    const auto data_start = static_cast<size_t>(file->tensors().front().data - file->bytes().data());
    const std::string data = bytes.substr(data_start);
    // Where the table ends: after the last row's offset, which precedes zeros only.
    const auto last = bytes.rfind(fakes::LeString("output_norm.weight"), data_start);
    const size_t table_end = last + 8 + 18 + 4 + 8 + 4 + 8;
    std::string head = bytes.substr(0, table_end);
    const size_t at = head.find(key);
    head.replace(at, key.size() + 4, array);
    head.resize((head.size() + 31) / 32 * 32, '\0');
    return Read(head + data);
  };
  const auto same = with_heads({4, 4});
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(same->n_heads, 4);
  ExpectUnsupported(with_heads({4, 8}), "layers of different sizes are not supported");
  EXPECT_THAT(ErrorOf(with_heads({4, 4, 4})), HasSubstr("an array of 3 elements, wanted 2"));
  EXPECT_THAT(ErrorOf(with_heads({0, 0})), HasSubstr("0 is not from 1 to"));
}

}  // namespace
}  // namespace spillway::model
