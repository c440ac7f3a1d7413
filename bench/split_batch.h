// SplitBatch: what one measured step is made of. Values and pure functions.
#ifndef SPILLWAY_BENCH_SPLIT_BATCH_H_
#define SPILLWAY_BENCH_SPLIT_BATCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/exec/split_plan.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

constexpr int32_t kSplitBlockTokens = 16;
constexpr int32_t kPieceRowsMax = 256;  // of a prompt in one step

struct SplitSequence {
  int32_t cached = 0;  // tokens before the step
  int32_t rows = 1;    // tokens that the step computes
};

struct SplitBatch {
  exec::Phase phase = exec::Phase::kDecode;
  std::vector<SplitSequence> sequences;
  int32_t shared = 0;  // the first so many cached tokens are the same blocks in every sequence; whole blocks

  int32_t rows() const;
  int64_t cached_tokens() const;    // each sequence's
  int64_t distinct_tokens() const;  // what is shared counts once
  // "8 x 512", "3 sequences of 96-700, 64 shared", "prefill 128 after 512".
  std::string Describe() const;
  nlohmann::json ToJson() const;
};

// Decodes a token of each of `sequences` that hold `context` tokens.
SplitBatch UniformBatch(int32_t sequences, int32_t context, int32_t shared = 0);

// `n` shapes that differ in everything: batch size, each sequence's length, a prefix that all share (every
// third one), and every fourth one a piece of prefill. No sequence is longer than `longest`, and their
// distinct tokens are at most `most`. The same for a seed everywhere.
std::vector<SplitBatch> DrawBatches(uint64_t seed, int n, int32_t longest, int64_t most);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_BATCH_H_
