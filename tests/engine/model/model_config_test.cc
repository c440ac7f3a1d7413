#include "engine/model/model_config.h"

#include <string>

#include "engine/model/gguf.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<ModelConfig> Read(const std::string& bytes) {
  const auto file = GgufFile::Parse(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "tiny.gguf");
  if (!file.ok()) return file.status();
  return ConfigFromGguf(*file);
}

TEST(ConfigFromGguf, ATinyLlamaIsReadWhole) {
  fakes::TinyLlamaOptions options;
  options.n_layers = 3;
  const auto config = Read(fakes::TinyLlamaBytes(options));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "Tiny Llama");
  EXPECT_EQ(config->n_layers, 3);
  EXPECT_EQ(config->d_model, 64);
  EXPECT_EQ(config->n_heads, 4);
  EXPECT_EQ(config->n_kv_heads, 2);
  EXPECT_EQ(config->d_head, 16);
  EXPECT_EQ(config->d_ff, 128);
  EXPECT_EQ(config->vocab_size, 320);
  EXPECT_EQ(config->context_length, 512);
  EXPECT_FLOAT_EQ(config->norm_epsilon, 1e-5f);
  EXPECT_EQ(config->rope.dims, 16);
  EXPECT_EQ(config->rope.theta, 10000);
  EXPECT_EQ(config->rope.style, RopeStyle::kInterleaved);
  EXPECT_TRUE(config->has_tied_embedding);
  EXPECT_EQ(config->beta_bytes(2), 2 * 32 * 2);
  EXPECT_EQ(config->chi_bytes(2), 64 * 2);
}

}  // namespace
}  // namespace spillway::model
