// Tiny models of committed files against the logits that Hugging Face Transformers computed for the same
// weights (tests/golden/make_model_goldens.py).
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/exec/golden_logits.h"
#include "tests/engine/exec/tiny_engine.h"

namespace spillway::exec {
namespace {

using Case = std::tuple<const char*, device::DType, int32_t>;

class TinyGoldenTest : public ::testing::TestWithParam<Case> {};

TEST_P(TinyGoldenTest, LogitsAreThoseOfTransformers) {
  const auto& [name, dtype, chunk_rows] = GetParam();
  const std::string path = std::string(SPILLWAY_TESTDATA "/model/") + name;
  const bool is_directory = std::filesystem::is_directory(path);
  const GoldenLogits golden = ReadGoldenLogits(path + (is_directory ? "/logits" : ".logits"));
  ASSERT_FALSE(golden.ids.empty());
  TinyEngineOptions options;
  options.dtype = dtype;
  options.chunk_rows = chunk_rows;
  TinyEngine engine(is_directory ? path : path + ".gguf", options);
  // bf16 keeps 8 bits of weights and activations.
  const LogitDifference tolerance =
      dtype == device::DType::kF32 ? LogitDifference{2e-4, 2e-5} : LogitDifference{0.7, 0.12};
  for (size_t i = 0; i < golden.ids.size(); ++i) {
    const LogitDifference difference = Difference(engine.LogitsOfAll(golden.ids[i]), golden.logits[i]);
    std::cout << "logits differ by " << difference.largest << " at most, rms " << difference.rms << "\n";
    EXPECT_LT(difference.largest, tolerance.largest);
    EXPECT_LT(difference.rms, tolerance.rms);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TinyGoldenTest,
                         ::testing::Combine(::testing::Values("tiny_gqa", "tiny_mha", "tiny_llama3_rope",
                                                              "llama_gqa", "llama_shards", "llama_biases",
                                                              "opt"),
                                            ::testing::Values(device::DType::kF32, device::DType::kBF16),
                                            ::testing::Values(7, 256)),
                         [](const ::testing::TestParamInfo<Case>& test) {
                           return std::string(std::get<0>(test.param)) + "_" +
                                  device::NameOf(std::get<1>(test.param)) + "_chunk" +
                                  std::to_string(std::get<2>(test.param));
                         });

// Cached tokens reach attention as X alone: every key and value but the open block's is computed anew from
// what was stored, with the family's norm and biases.
TEST(TinyGoldenOverLinkTest, KeysAndValuesRebuiltFromXGiveTheLogitsOfTransformers) {
  for (const char* name : {"llama_shards", "llama_biases", "opt"}) {
    const std::string path = std::string(SPILLWAY_TESTDATA "/model/") + name;
    const GoldenLogits golden = ReadGoldenLogits(path + "/logits");
    TinyEngineOptions options;
    options.dtype = device::DType::kF32;
    options.max_item_segments = 2;
    options.max_item_rows = 32;
    options.link.emplace();
    options.link->form = kv::Form::kX;
    options.link->x_share = 1;
    options.link->resident_blocks_max = 0;
    TinyEngine engine(path, options);
    Sequence sequence;
    sequence.tokens = golden.ids[0];
    std::vector<std::vector<float>> got;
    while (sequence.n_cached < sequence.size()) {
      for (std::vector<float>& row : engine.Logits(sequence, sequence.n_cached < 32 ? 8 : 1)) {
        got.push_back(std::move(row));
      }
    }
    EXPECT_LT(Difference(got, golden.logits[0]).largest, 2e-4) << name;
  }
}

}  // namespace
}  // namespace spillway::exec
