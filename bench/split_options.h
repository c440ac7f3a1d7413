// SplitBenchOptions: what `spillway-bench split` measures. A value.
#ifndef SPILLWAY_BENCH_SPLIT_OPTIONS_H_
#define SPILLWAY_BENCH_SPLIT_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/flags.h"

namespace spillway::bench {

struct SplitBenchOptions {
  std::vector<std::string> models = {"multi-head", "grouped-query"};
  std::vector<int32_t> batches = {1, 8};
  std::vector<int32_t> contexts = {256, 512, 1024};
  std::string device = "cpu";            // behind an emulated link; or "cuda", a GPU behind its own
  std::string cuda_module;               // as spillwayd's --cuda_module
  std::string overlap_kernels = "auto";  // as spillwayd's --overlap_kernels
  std::vector<double> links_mb_per_s = {100, 50, 150};
  std::vector<std::string> modes = {"transfer", "fixed:0.5", "rebuild", "serial", "auto"};
  double resident = 0.5;  // share of the tokens in the rows that have some resident
  int32_t steps = 5;
  int32_t unseen = 24;
  uint64_t seed = 1;
  int32_t threads = 0;
  double profile_s = 8;  // for one machine's profile
  bool quick = false;
  std::string json;

  // What one step has cached at most.
  int64_t cached_tokens_max() const;
  int32_t sequences_max() const;
};

void AddSplitFlags(client::FlagTable& flags, SplitBenchOptions* options);
// Fewer rows, so that all is over in under 50 s on two idle cores. For those of its options that were not
// given.
void MakeQuick(SplitBenchOptions* options, const SplitBenchOptions& given);
// Empty: they will do.
std::string Complaint(const SplitBenchOptions& options);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_OPTIONS_H_
