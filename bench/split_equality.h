// Whether tokens are those of the resident run, however cached tokens reach attention. Free functions.
#ifndef SPILLWAY_BENCH_SPLIT_EQUALITY_H_
#define SPILLWAY_BENCH_SPLIT_EQUALITY_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_report.h"
#include "engine/device/types.h"

namespace spillway::bench {

// What a step drew for one sequence.
struct Drawn {
  int32_t token = 0;
  float gap = 0;      // between the two likeliest tokens' log probabilities
  float logprob = 0;  // of the token with which the sequence goes on: the resident run's
};
using Draws = std::vector<std::vector<Drawn>>;  // of each step: of each sequence

// What rounding may change a log probability by. Where none changes by more, another token is drawn only
// where the gap is below twice as much: at a near tie.
double LogprobTolerance(device::DType dtype);

struct TokenEquality {
  int64_t tokens = 0;              // compared
  int64_t different = 0;           // near ties among them
  int64_t near_ties = 0;           // different where the resident run's two likeliest tokens were near ties
  int64_t off = 0;                 // whose log probability differs by more than the tolerance
  int64_t wrong = 0;               // off, or different without a near tie
  double largest_difference = 0;   // of a log probability
  double tolerance = 0;            // the largest of those that applied
  int64_t resident_tokens = 0;     // of the resident run itself
  int64_t resident_near_ties = 0;  // of these: what near ties could excuse

  void Add(const TokenEquality& other);
};

// Both runs took the resident run's tokens. Leaves resident_* at 0.
TokenEquality CompareDraws(const Draws& resident, const Draws& other, double tolerance);

// Prompts are read and tokens generated greedily with everything resident; then under every mode with nothing
// resident, and with a share resident, each step after the resident run's tokens. Adds to `equality`.
absl::Status CompareTokens(const SplitMachine& machine, const SplitBenchOptions& options, SplitReport& report,
                           TokenEquality* equality);

// Prints, and sets the ratio: 1 where no token is wrong.
void SummarizeEquality(const TokenEquality& equality, SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_EQUALITY_H_
