// Checks on a real file, run where SPILLWAY_DEMO_MODEL names SmolLM2-135M-Instruct as GGUF.
#include <cstdlib>

#include "engine/model/fingerprint.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/model/model_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::model {
namespace {

using ::testing::Contains;

TEST(DemoModel, IsReadWhole) {
  const char* path = std::getenv("SPILLWAY_DEMO_MODEL");
  if (path == nullptr) GTEST_SKIP() << "set SPILLWAY_DEMO_MODEL to the demo model's path";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ConfigFromGguf(*file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->n_layers, 30);
  EXPECT_EQ(config->d_model, 576);
  EXPECT_EQ(config->n_heads, 9);
  EXPECT_EQ(config->n_kv_heads, 3);
  EXPECT_EQ(config->d_head, 64);
  EXPECT_EQ(config->rope.theta, 100000);
  EXPECT_EQ(config->parameter_count(), 134'515'008);
  int64_t elements = 0;
  for (const device::TensorView& tensor : file->tensors()) elements += tensor.elements();
  EXPECT_EQ(config->parameter_count(), elements);

  const auto vocabulary = VocabularyFromGguf(*file);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->tokens.size(), 49152u);
  EXPECT_EQ(vocabulary->merges.size(), 48900u);
  EXPECT_FALSE(vocabulary->add_bos);
  EXPECT_EQ(vocabulary->stop_ids, (std::vector<text::TokenId>{0, 2}));

  const auto alone = Fingerprint(*file, 1);
  const auto together = Fingerprint(*file, 2);
  ASSERT_TRUE(alone.ok() && together.ok());
  EXPECT_EQ(*alone, *together);
}

}  // namespace
}  // namespace spillway::model
