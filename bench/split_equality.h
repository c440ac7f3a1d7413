// Whether tokens are those of the resident run, however cached tokens reach attention. Free functions.
#ifndef SPILLWAY_BENCH_SPLIT_EQUALITY_H_
#define SPILLWAY_BENCH_SPLIT_EQUALITY_H_

#include "absl/status/status.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_report.h"

namespace spillway::bench {

struct TokenEquality {
  int64_t tokens = 0;     // compared
  int64_t different = 0;  // near ties among them
  int64_t near_ties = 0;  // different where the resident run's two likeliest tokens were as good as equal
};

// Prompts are read and tokens generated greedily with everything resident; then under every mode with nothing
// resident, and with a share resident, each step after the resident run's tokens. Adds to `equality`.
absl::Status CompareTokens(const SplitMachine& machine, const SplitBenchOptions& options, SplitReport& report,
                           TokenEquality* equality);

// Prints, and sets the ratio: 1 where every token is equal or at a near tie.
void SummarizeEquality(const TokenEquality& equality, SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_EQUALITY_H_
