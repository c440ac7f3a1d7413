// Throughput of the tokenizer: text_benchmark needs SPILLWAY_DEMO_MODEL, the demo model's GGUF file.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/text/incremental_detokenizer.h"
#include "engine/text/tokenizer.h"

namespace spillway::text {
namespace {

std::unique_ptr<Tokenizer> LoadTokenizer() {
  const char* path = std::getenv("SPILLWAY_DEMO_MODEL");
  SPILLWAY_CHECK_MSG(path != nullptr, "SPILLWAY_DEMO_MODEL is not set");
  const auto file = model::GgufFile::Open(path);
  SPILLWAY_CHECK_MSG(file.ok(), file.status().ToString().c_str());
  auto vocabulary = model::VocabularyFromGguf(*file);
  SPILLWAY_CHECK_MSG(vocabulary.ok(), vocabulary.status().ToString().c_str());
  return Tokenizer::Create(*std::move(vocabulary)).value();
}

std::string Repeat(absl::string_view text, size_t bytes) {
  std::string result;
  while (result.size() < bytes) result.append(text.data(), text.size());
  return result;
}

constexpr absl::string_view kEnglish =
    "The licenses for most software and other practical works are designed to take away your freedom to "
    "share and "
    "change the works. By contrast, this license is intended to guarantee your freedom to share and change "
    "all "
    "versions of a program, to make sure it remains free software for all its users; it doesn't cost "
    "anything, and "
    "in 1989 somebody's notebook said so, too.\n\n";
constexpr absl::string_view kCode =
    "for (int64_t i = 0; i < n_rows; ++i) {\n  const float* row = &matrix[i * stride];\n  sum[i] += dot(row, "
    "x, d); "
    " // accumulate\n}\n\n";
constexpr absl::string_view kChinese = "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。寒來暑往，秋收冬藏。";

void BM_Encode(benchmark::State& state, absl::string_view text) {
  const auto tokenizer = LoadTokenizer();
  const std::string input = Repeat(text, 1 << 20);
  size_t tokens = 0;
  for (auto _ : state) tokens += tokenizer->Encode(input).value().size();
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * input.size()));
  state.SetItemsProcessed(static_cast<int64_t>(tokens));
}
BENCHMARK_CAPTURE(BM_Encode, english, kEnglish)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, code, kCode)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, chinese, kChinese)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Encode, one_word, "abcdefghij")->Unit(benchmark::kMillisecond);

void BM_Detokenize(benchmark::State& state) {
  const auto tokenizer = LoadTokenizer();
  const auto ids = tokenizer->Encode(Repeat(kEnglish, 1 << 16)).value();
  for (auto _ : state) {
    IncrementalDetokenizer detokenizer(*tokenizer);
    for (const TokenId id : ids) benchmark::DoNotOptimize(detokenizer.Append(id));
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * ids.size()));
}
BENCHMARK(BM_Detokenize);

}  // namespace
}  // namespace spillway::text

BENCHMARK_MAIN();
