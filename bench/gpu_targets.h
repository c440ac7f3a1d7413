// GpuTargets: what is asked of a GPU beside what was measured, and how it is printed.
#ifndef SPILLWAY_BENCH_GPU_TARGETS_H_
#define SPILLWAY_BENCH_GPU_TARGETS_H_

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

struct GpuTarget {
  // What is asked: a share or a ratio of at least so much, or an error of at most.
  enum class Kind { kShare, kRatio, kError };

  std::string name;  // "decode_bf16_32"
  std::string what;  // "decode step, bf16, 32 sequences"
  Kind kind = Kind::kShare;
  double asked = 0;
  std::optional<double> measured;  // none: not measured, and `of` says why
  std::optional<double> whole;     // estimated for all layers of the model
  std::string of;                  // "pinned copies, 55.1 GB/s"

  // REQUIRES: measured.
  bool met() const { return kind == Kind::kError ? *measured <= asked : *measured >= asked; }
};

// One line each, under a heading. `whole_layers`: of the estimates.
void PrintTargets(const std::vector<GpuTarget>& targets, int32_t whole_layers, std::ostream& out);
nlohmann::json ToJson(const GpuTarget& target);

// What a report of `spillway-bench split` says of the link where keys and values are carried alone, of each
// model the row with most cached tokens, and of the predictions. InvalidArgument: it is not such a report.
absl::StatusOr<std::vector<GpuTarget>> TargetsOfSplit(const nlohmann::json& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GPU_TARGETS_H_
