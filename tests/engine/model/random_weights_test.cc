#include "engine/model/random_weights.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "engine/device/cpu/cpu_device.h"
#include "engine/device/tensor.h"
#include "engine/model/model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

using ::testing::HasSubstr;

ModelConfig OptLike() {
  ModelConfig config;
  config.family = Family::kOpt;
  config.n_layers = 2;
  config.d_model = 64;
  config.n_heads = config.n_kv_heads = 4;
  config.d_head = 16;
  config.d_ff = 256;
  config.vocab_size = 3000;
  config.context_length = 100;
  config.norm = NormKind::kLayer;
  config.activation = ActivationKind::kRelu;
  config.position = PositionKind::kLearned;
  config.position_offset = 2;
  config.has_biases = true;
  config.has_tied_embedding = true;
  return config;
}

std::vector<float> Values(const RandomTensors& tensors, const std::string& name, int64_t first,
                          int64_t count) {
  const device::TensorView* tensor = tensors.FindTensor(name);
  EXPECT_NE(tensor, nullptr) << name;
  std::vector<uint8_t> room;
  const device::TensorView rows = tensors.Rows(*tensor, first, count, &room);
  std::vector<float> values(static_cast<size_t>(rows.elements()));
  device::DecodeToF32(rows.encoding, rows.data, rows.elements(), values.data());
  return values;
}

TEST(RandomTensors, DependOnSeedNameAndPlaceAlone) {
  const RandomTensors tensors(OptLike(), 7, "t");
  const std::vector<float> all = Values(tensors, "token_embd.weight", 0, 3000);
  for (const auto& [first, count] : {std::pair{0, 1}, {1, 2}, {17, 900}, {2999, 1}}) {
    const std::vector<float> some = Values(tensors, "token_embd.weight", first, count);
    EXPECT_EQ(std::memcmp(some.data(), all.data() + first * 64, some.size() * 4), 0) << first;
  }
  // Odd places begin in the middle of a pair.
  const std::vector<float> bias = Values(tensors, "blk.1.ffn_up.bias", 0, 256);
  EXPECT_EQ(Values(tensors, "blk.1.ffn_up.bias", 3, 4),
            std::vector<float>(bias.begin() + 3, bias.begin() + 7));
  EXPECT_EQ(Values(RandomTensors(OptLike(), 7, "u"), "token_embd.weight", 0, 3000), all);
  EXPECT_NE(Values(RandomTensors(OptLike(), 8, "t"), "token_embd.weight", 0, 3000), all);
  EXPECT_NE(Values(tensors, "blk.0.attn_q.weight", 0, 64), Values(tensors, "blk.0.attn_k.weight", 0, 64));
  EXPECT_NE(Values(tensors, "blk.0.attn_q.weight", 0, 64), Values(tensors, "blk.1.attn_q.weight", 0, 64));
  EXPECT_EQ(tensors.FindTensor("output.weight"), nullptr) << "the head is the embedding";
}

struct Moments {
  double mean = 0;
  double deviation = 0;
  double beyond_two = 0;  // share of values more than two deviations from the mean
  double neighbours = 0;  // correlation
};

Moments MomentsOf(const std::vector<float>& values) {
  Moments m;
  const auto n = static_cast<double>(values.size());
  for (const float v : values) m.mean += static_cast<double>(v) / n;
  for (const float v : values)
    m.deviation += (static_cast<double>(v) - m.mean) * (static_cast<double>(v) - m.mean) / n;
  for (size_t i = 1; i < values.size(); ++i) {
    m.neighbours += (static_cast<double>(values[i]) - m.mean) *
                    (static_cast<double>(values[i - 1]) - m.mean) / n / m.deviation;
  }
  m.deviation = std::sqrt(m.deviation);
  for (const float v : values)
    m.beyond_two += std::abs(static_cast<double>(v) - m.mean) > 2 * m.deviation ? 1 / n : 0;
  return m;
}

TEST(RandomTensors, AreScaledAsForTraining) {
  const RandomTensors tensors(OptLike(), 1, "t");
  const std::tuple<const char*, int64_t, double, double> cases[] = {
      {"token_embd.weight", 3000, 0, 1 / 8.0},        {"position_embd.weight", 102, 0, 1 / 8.0},
      {"blk.1.attn_q.weight", 64, 0, 1 / 8.0},        {"blk.1.ffn_up.weight", 256, 0, 1 / 8.0},
      {"blk.1.ffn_down.weight", 64, 0, 1 / 16.0 / 2}, {"blk.1.attn_output.weight", 64, 0, 1 / 8.0 / 2},
      {"blk.1.attn_norm.weight", 64, 1, 0.1},         {"blk.1.attn_norm.bias", 64, 0, 0.1},
  };
  for (const auto& [name, rows, mean, deviation] : cases) {
    const std::vector<float> values = Values(tensors, name, 0, rows);
    const Moments m = MomentsOf(values);
    const double error = 5 * deviation / std::sqrt(static_cast<double>(values.size()));
    EXPECT_NEAR(m.mean, mean, error) << name;
    EXPECT_NEAR(m.deviation, deviation, error) << name;
  }
  const Moments m = MomentsOf(Values(tensors, "token_embd.weight", 0, 3000));
  EXPECT_NEAR(m.beyond_two, 0.0455, 0.005) << "bell-shaped";
  EXPECT_NEAR(m.neighbours, 0, 0.012);
}

TEST(RandomTensors, InFourBitsHaveTheSameMeanAndDeviation) {
  ModelConfig config = OptLike();
  config.d_model = 512;  // two blocks a row
  config.d_head = 128;
  const RandomTensors tensors(config, 1, "t", device::Encoding::kQ4_K);
  const device::TensorView* const q = tensors.FindTensor("blk.1.attn_q.weight");
  EXPECT_EQ(q->encoding, device::Encoding::kQ4_K);
  EXPECT_EQ(q->size_bytes, 512 * 2 * 144);
  EXPECT_EQ(tensors.FindTensor("blk.1.attn_q.bias")->encoding, device::Encoding::kF32);
  for (const auto& [name, deviation] : {std::pair{"blk.1.attn_q.weight", 1 / std::sqrt(512.0)},
                                        {"blk.1.attn_output.weight", 1 / std::sqrt(512.0) / 2}}) {
    const std::vector<float> all = Values(tensors, name, 0, 512);
    const Moments m = MomentsOf(all);
    const double error = 5 * deviation / std::sqrt(static_cast<double>(all.size()));
    EXPECT_NEAR(m.mean, 0, error) << name;
    EXPECT_NEAR(m.deviation, deviation, error) << name;
    EXPECT_NEAR(m.neighbours, 0, 0.012) << name;
    const std::vector<float> some = Values(tensors, name, 17, 100);
    EXPECT_EQ(std::memcmp(some.data(), all.data() + 17 * 512, some.size() * 4), 0) << name;
  }
  EXPECT_NE(*tensors.Fingerprint(), *RandomTensors(config, 1, "t").Fingerprint());
  // Rows that are no whole blocks.
  const RandomTensors narrow(OptLike(), 1, "t", device::Encoding::kQ4_K);
  EXPECT_EQ(narrow.FindTensor("blk.1.attn_q.weight")->encoding, device::Encoding::kBF16);
  EXPECT_EQ(narrow.FindTensor("blk.1.ffn_down.weight")->encoding, device::Encoding::kQ4_K);
}

TEST(RandomTensors, FingerprintTellsSeedsAndShapesApart) {
  const auto of = [](const ModelConfig& config, uint64_t seed) {
    return ToHex(*RandomTensors(config, seed, "t").Fingerprint());
  };
  const std::string one = of(OptLike(), 1);
  EXPECT_EQ(of(OptLike(), 1), one);
  EXPECT_NE(of(OptLike(), 2), one);
  ModelConfig heads = OptLike();  // the same tensors, other arithmetic
  heads.n_heads = heads.n_kv_heads = 2;
  heads.d_head = 32;
  EXPECT_NE(of(heads, 1), one);
  ModelConfig wider = OptLike();
  wider.d_ff = 512;
  EXPECT_NE(of(wider, 1), one);
}

std::string WriteConfig(const std::string& text) {
  const std::string path = ::testing::TempDir() + std::to_string(getpid()) + "_config.json";
  EXPECT_TRUE(fakes::WriteFile(path, text).ok());
  return path;
}

TEST(LoadRandomModelTest, GivesWeightsAndIdsButNoText) {
  const std::string path = WriteConfig(
      R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 70, "rope_theta": 10000})");
  device::CpuDeviceOptions options;
  options.dtype = device::DType::kF32;
  options.threads = 2;
  const auto device = std::move(device::CreateCpuDevice(options).value());
  const auto model = LoadRandomModel(path, 3, *device, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->vocabulary.model, "ids");
  EXPECT_EQ(model->vocabulary.tokens.size(), 70u);
  EXPECT_EQ(model->weights->layers().size(), 2u);
  EXPECT_EQ(model->weights->layers()[0].qkv.n, 64 + 2 * 16);
  EXPECT_FALSE(model->weights->layers()[0].qkv_bias);
  // What lies on the device is what the tensors say.
  const RandomTensors tensors(model->config, 3, "t");
  const std::vector<float> want = Values(tensors, "token_embd.weight", 0, 70);
  EXPECT_EQ(std::memcmp(reinterpret_cast<const void*>(model->weights->embedding().data.address), want.data(),
                        want.size() * 4),
            0);
  const auto other = LoadRandomModel(path, 4, *device, {});
  ASSERT_TRUE(other.ok());
  EXPECT_NE(other->fingerprint, model->fingerprint);
}

TEST(LoadRandomModelTest, LearnedPositionsBeginBehindTheOffset) {
  device::CpuDeviceOptions options;
  options.dtype = device::DType::kF32;
  options.threads = 2;
  const auto device = std::move(device::CreateCpuDevice(options).value());
  const RandomTensors tensors(OptLike(), 5, "t");
  const auto weights = ModelWeights::Load(*device, tensors, OptLike(), {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  const std::vector<float> want = Values(tensors, "position_embd.weight", 2, 100);
  EXPECT_EQ(std::memcmp(reinterpret_cast<const void*>((*weights)->position_embedding().address), want.data(),
                        want.size() * 4),
            0);
  EXPECT_TRUE((*weights)->layers()[1].qkv_bias);
  EXPECT_TRUE((*weights)->layers()[1].down_bias);
  EXPECT_TRUE((*weights)->output_norm_bias());
  // q | k | v, one after the other.
  const auto* bias = reinterpret_cast<const float*>((*weights)->layers()[1].qkv_bias.address);
  const std::vector<float> v = Values(tensors, "blk.1.attn_v.bias", 0, 64);
  EXPECT_EQ(std::memcmp(bias + 128, v.data(), 64 * 4), 0);
}

TEST(LoadRandomModelTest, AFileThatIsNoConfigurationIsRefusedByName) {
  device::CpuDeviceOptions options;
  const auto device = std::move(device::CreateCpuDevice(options).value());
  const auto missing = LoadRandomModel("/nowhere/config.json", 0, *device, {});
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nowhere/config.json"));
  const auto bad = LoadRandomModel(WriteConfig("{\"model_type\": \"gpt2\"}"), 0, *device, {});
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("gpt2"));
}

}  // namespace
}  // namespace spillway::model
