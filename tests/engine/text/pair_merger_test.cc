#include "engine/text/pair_merger.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace spillway::text {
namespace {

// Tokens are numbers; two neighbours join when their sum is allowed, small sums first.
struct SumRule {
  std::vector<uint32_t> rank_of_sum;
  mutable int64_t calls = 0;

  PairMerge operator()(const Symbol& left, const Symbol& right) const {
    ++calls;
    const auto sum = static_cast<size_t>(left.token + right.token);
    if (sum >= rank_of_sum.size()) return PairMerge{};
    return PairMerge{rank_of_sum[sum], static_cast<TokenId>(sum)};
  }
};

std::vector<Symbol> MakeSymbols(const std::vector<TokenId>& tokens) {
  std::vector<Symbol> symbols;
  for (const TokenId token : tokens) symbols.push_back({token, static_cast<uint32_t>(symbols.size()), 1});
  return symbols;
}

// The definition, word for word.
std::vector<TokenId> MergeNaively(std::vector<TokenId> tokens, const SumRule& rule) {
  while (true) {
    size_t best = 0;
    PairMerge merge;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) {
      const PairMerge candidate = rule({tokens[i], 0, 1}, {tokens[i + 1], 0, 1});
      if (candidate.rank < merge.rank) {
        merge = candidate;
        best = i;
      }
    }
    if (merge.rank == PairMerge::kNever) return tokens;
    tokens[best] = merge.merged;
    tokens.erase(tokens.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

TEST(PairMergerTest, JoinsWhatTheDefinitionJoins) {
  std::mt19937 random(5);
  PairMerger merger;
  for (int round = 0; round < 3000; ++round) {
    SumRule rule;
    for (int sum = 0; sum < 24; ++sum) {
      // Equal ranks are frequent, so that "leftmost first" matters; some sums never join.
      rule.rank_of_sum.push_back(random() % 4 == 0 ? PairMerge::kNever : static_cast<uint32_t>(random() % 6));
    }
    std::vector<TokenId> tokens;
    for (size_t n = random() % 120; n > 0; --n) tokens.push_back(static_cast<TokenId>(1 + random() % 4));
    merger.symbols = MakeSymbols(tokens);
    merger.Run(rule);
    std::vector<TokenId> merged;
    uint32_t offset = 0;
    for (const Symbol& symbol : merger.symbols) {
      merged.push_back(symbol.token);
      ASSERT_EQ(symbol.begin, offset);
      offset += symbol.bytes;
    }
    ASSERT_EQ(offset, tokens.size());
    ASSERT_EQ(merged, MergeNaively(tokens, rule)) << "round " << round;
  }
}

TEST(PairMergerTest, LooksUpEachPairAConstantNumberOfTimes) {
  constexpr int kSymbols = 1 << 18;
  const SumRule rule{.rank_of_sum = std::vector<uint32_t>(64, 1)};
  PairMerger merger;
  merger.symbols = MakeSymbols(std::vector<TokenId>(kSymbols, 1));
  merger.Run(rule);
  EXPECT_LT(merger.symbols.size(), size_t{kSymbols} / 16);
  EXPECT_LE(rule.calls, 3 * kSymbols);
}

}  // namespace
}  // namespace spillway::text
