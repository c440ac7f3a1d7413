// A whole model whose weights stay packed on the CUDA device, over the emulated GPU: the logits of the same
// weights expanded at load.
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::exec {
namespace {

using device::Encoding;
using device::WeightMode;

std::string WriteModel(Encoding encoding) {
  fakes::TinyLlamaOptions options;
  options.d_model = 256;
  options.d_ff = 512;
  options.n_heads = 8;
  options.n_kv_heads = 2;
  options.encoding = encoding;
  const std::string path =
      absl::StrCat(testing::TempDir(), getpid(), "_packed_", static_cast<int>(encoding), ".gguf");
  EXPECT_TRUE(fakes::WriteTinyLlama(path, options).ok());
  return path;
}

// A prompt of many rows, then single ones, with cached tokens that come as K and V and as X.
std::vector<std::vector<float>> LogitsOf(const std::string& path, WeightMode mode, bool streamed) {
  TinyEngineOptions options;
  options.max_item_segments = 2;
  options.max_item_rows = 64;
  options.link.emplace();
  options.link->weight_mode = mode;
  options.link->stream_weights = streamed;
  options.link->form = kv::Form::kBoth;
  options.link->x_share = 0.5;
  options.link->resident_blocks_max = 0;
  TinyEngine engine(path, options);
  Sequence sequence;
  sequence.tokens = RandomTokens(3, 60, engine.model().config.vocab_size);
  std::vector<std::vector<float>> logits = engine.Logits(sequence, 50);
  while (sequence.n_cached < sequence.size()) logits.push_back(engine.Logits(sequence, 1).front());
  return logits;
}

TEST(CudaPackedWeights, GiveTheLogitsOfExpandedOnes) {
  for (const Encoding encoding : {Encoding::kQ8_0, Encoding::kQ4_K, Encoding::kQ6_K}) {
    const std::string path = WriteModel(encoding);
    const auto expanded = LogitsOf(path, WeightMode::kExpanded, false);
    EXPECT_LT(MaxDifference(LogitsOf(path, WeightMode::kPacked, false), expanded), 1e-4)
        << static_cast<int>(encoding);
    EXPECT_LT(MaxDifference(LogitsOf(path, WeightMode::kPacked, true), expanded), 1e-4)
        << static_cast<int>(encoding) << ", streamed";
    unlink(path.c_str());
  }
}

}  // namespace
}  // namespace spillway::exec
