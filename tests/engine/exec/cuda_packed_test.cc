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

using device::DType;
using device::Encoding;
using device::WeightMode;

fakes::TinyLlamaOptions ModelOf(Encoding encoding) {
  fakes::TinyLlamaOptions options;
  options.d_model = 256;
  options.d_ff = 512;
  options.n_heads = 8;
  options.n_kv_heads = 2;
  options.encoding = encoding;
  return options;
}

std::string WriteModel(const fakes::TinyLlamaOptions& options) {
  const std::string path =
      absl::StrCat(testing::TempDir(), getpid(), "_packed_", static_cast<int>(options.encoding), ".gguf");
  EXPECT_TRUE(fakes::WriteTinyLlama(path, options).ok());
  return path;
}

using Logits = std::vector<std::vector<float>>;

// A prompt of many rows, then single ones, with cached tokens that come as K and V and as X.
Logits LogitsOf(const std::string& path, DType dtype, WeightMode mode, bool streamed) {
  TinyEngineOptions options;
  options.dtype = dtype;
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
  Logits logits = engine.Logits(sequence, 50);
  while (sequence.n_cached < sequence.size()) logits.push_back(engine.Logits(sequence, 1).front());
  return logits;
}

TEST(CudaPackedWeights, GiveTheLogitsOfExpandedOnes) {
  for (const Encoding encoding : {Encoding::kQ8_0, Encoding::kQ4_K, Encoding::kQ6_K}) {
    const std::string path = WriteModel(ModelOf(encoding));
    const auto logits = [&](WeightMode mode, bool streamed) {
      return LogitsOf(path, DType::kF32, mode, streamed);
    };
    const Logits expanded = logits(WeightMode::kExpanded, false);
    EXPECT_LT(MaxDifference(logits(WeightMode::kPacked, false), expanded), 1e-4)
        << static_cast<int>(encoding);
    EXPECT_LT(MaxDifference(logits(WeightMode::kPacked, true), expanded), 1e-4)
        << static_cast<int>(encoding) << ", streamed";
    unlink(path.c_str());
  }
}

// What a GPU does by default: bf16, and each matrix as it is multiplied well. Expanded weights are rounded to
// bf16 where packed ones are not, so those are no further from f32.
TEST(CudaPackedWeights, GiveTheLogitsOfExpandedOnesInBf16) {
  for (const Encoding encoding : {Encoding::kQ8_0, Encoding::kQ4_K, Encoding::kQ6_K}) {
    const std::string path = WriteModel(ModelOf(encoding));
    const Logits exact = LogitsOf(path, DType::kF32, WeightMode::kExpanded, false);
    const Logits expanded = LogitsOf(path, DType::kBF16, WeightMode::kExpanded, false);
    EXPECT_LT(Difference(expanded, exact).rms, 2 * LogitTolerance(DType::kBF16));
    for (const bool streamed : {false, true}) {
      const Logits packed = LogitsOf(path, DType::kBF16, WeightMode::kAuto, streamed);
      const std::string what = absl::StrCat(static_cast<int>(encoding), streamed ? ", streamed" : "");
      EXPECT_GT(MaxDifference(packed, expanded), 0) << what << ": nothing was packed";
      EXPECT_LE(Difference(packed, exact).rms, 1.1 * Difference(expanded, exact).rms) << what;
    }
    unlink(path.c_str());
  }
}

// Where only the embedding stays packed, its rows are the expanded ones.
TEST(CudaPackedWeights, APackedEmbeddingChangesNothing) {
  fakes::TinyLlamaOptions options;
  options.d_model = 96;
  options.n_heads = 3;
  options.n_kv_heads = 1;
  options.has_tied_embedding = false;
  options.encoding = Encoding::kQ5_1;
  const std::string path = WriteModel(options);
  EXPECT_EQ(LogitsOf(path, DType::kBF16, WeightMode::kAuto, false),
            LogitsOf(path, DType::kBF16, WeightMode::kExpanded, false));
  unlink(path.c_str());
}

}  // namespace
}  // namespace spillway::exec
