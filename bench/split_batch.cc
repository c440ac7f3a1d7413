#include "bench/split_batch.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "bench/distribution.h"

namespace spillway::bench {
namespace {

constexpr int32_t kSequencesMax = 8;
constexpr int32_t kShortest = 48;

// A length whose next token does not fill a block: the step can be repeated as it is.
int32_t NotQuiteABlock(int64_t tokens) {
  const auto n = static_cast<int32_t>(tokens);
  return n % kSplitBlockTokens == kSplitBlockTokens - 1 ? n - 1 : n;
}

int32_t WholeBlocks(int64_t tokens) {
  return static_cast<int32_t>(tokens / kSplitBlockTokens * kSplitBlockTokens);
}

SplitBatch DrawDecode(Random& random, bool shares, int32_t longest, int64_t most) {
  SplitBatch batch;
  const int64_t n = random.Between(1, kSequencesMax);
  const int64_t longest_each = std::min<int64_t>(longest, most / n);
  int32_t shortest = longest;
  for (int64_t i = 0; i < n; ++i) {
    batch.sequences.push_back({NotQuiteABlock(random.Between(kShortest, longest_each)), 1});
    shortest = std::min(shortest, batch.sequences.back().cached);
  }
  if (shares && n > 1) batch.shared = WholeBlocks(random.Between(kSplitBlockTokens, shortest));
  return batch;
}

SplitBatch DrawPrefill(Random& random, int32_t longest) {
  SplitBatch batch;
  batch.phase = exec::Phase::kPrefill;
  const int64_t n = random.Between(1, 2);
  for (int64_t i = 0; i < n; ++i) {
    const auto rows = static_cast<int32_t>(random.Between(kShortest, kPieceRowsMax / n));
    batch.sequences.push_back({WholeBlocks(random.Between(0, longest)), rows});
  }
  return batch;
}

}  // namespace

int32_t SplitBatch::rows() const {
  int32_t sum = 0;
  for (const SplitSequence& sequence : sequences) sum += sequence.rows;
  return sum;
}

int64_t SplitBatch::cached_tokens() const {
  int64_t sum = 0;
  for (const SplitSequence& sequence : sequences) sum += sequence.cached;
  return sum;
}

int64_t SplitBatch::distinct_tokens() const {
  return cached_tokens() - static_cast<int64_t>(sequences.size() - 1) * shared;
}

std::string SplitBatch::Describe() const {
  const auto [low, high] =
      std::minmax_element(sequences.begin(), sequences.end(),
                          [](const SplitSequence& a, const SplitSequence& b) { return a.cached < b.cached; });
  const std::string cached =
      low->cached == high->cached ? absl::StrCat(low->cached) : absl::StrCat(low->cached, "-", high->cached);
  std::string text = phase == exec::Phase::kPrefill ? absl::StrCat("prefill ", rows(), " after ", cached)
                                                    : absl::StrCat(sequences.size(), " x ", cached);
  if (shared > 0) absl::StrAppend(&text, ", ", shared, " shared");
  return text;
}

nlohmann::json SplitBatch::ToJson() const {
  nlohmann::json cached = nlohmann::json::array();
  for (const SplitSequence& sequence : sequences) cached.push_back(sequence.cached);
  return {{"phase", phase == exec::Phase::kPrefill ? "prefill" : "decode"},
          {"rows", rows()},
          {"cached_tokens", cached},
          {"shared_tokens", shared},
          {"distinct_tokens", distinct_tokens()}};
}

SplitBatch UniformBatch(int32_t sequences, int32_t context, int32_t shared) {
  SplitBatch batch;
  batch.sequences.assign(static_cast<size_t>(sequences), {context, 1});
  batch.shared = shared;
  return batch;
}

std::vector<SplitBatch> DrawBatches(uint64_t seed, int n, int32_t longest, int64_t most) {
  Random random(seed);
  std::vector<SplitBatch> batches;
  for (int i = 0; i < n; ++i) {
    batches.push_back(i % 4 == 3 ? DrawPrefill(random, longest)
                                 : DrawDecode(random, /*shares=*/i % 3 == 1, longest, most));
  }
  return batches;
}

}  // namespace spillway::bench
