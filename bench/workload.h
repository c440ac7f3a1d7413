// Workload: the requests of a load run, drawn from a seed or read from a file.
#ifndef SPILLWAY_BENCH_WORKLOAD_H_
#define SPILLWAY_BENCH_WORKLOAD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/distribution.h"
#include "client/flags.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::bench {

struct WorkloadOptions {
  LengthDistribution prompt = LengthDistribution::Fixed(128);
  LengthDistribution output = LengthDistribution::Fixed(64);
  std::string file;                  // JSON lines instead of lengths
  int64_t shared_prefix_tokens = 0;  // the first tokens of every prompt are the same
  double cancel_fraction = 0;
  client::FlagDuration cancel_within{1000};
  double slow_reader_fraction = 0;
  bool ignore_eos = true;  // so that outputs are as long as drawn
  float temperature = 0;
  uint64_t seed = 1;
  // Of every request. Unset: drawn anew for each workload, so that nothing is found in the prefix cache that
  // an earlier run of the same seed has left there.
  std::optional<std::string> cache_salt;
};

void AddWorkloadFlags(client::FlagTable& flags, WorkloadOptions* options);

struct PlannedRequest {
  v1::CompleteRequest request;
  // To be cancelled by the client: after so many tokens, or so long after it was sent. -1: not so.
  int64_t cancel_after_tokens = -1;
  int64_t cancel_after_ns = -1;
  bool reads_slowly = false;

  bool to_be_cancelled() const { return cancel_after_tokens >= 0 || cancel_after_ns >= 0; }
};

// Thread-compatible.
class Workload {
 public:
  // InvalidArgument for fractions outside of 0..1 and a file that cannot be read, naming the line. Prompts
  // are token ids below the model's vocabulary, its end tokens left out; prompt and output fit its context.
  static absl::StatusOr<Workload> Create(const WorkloadOptions& options, const v1::Model& model);

  PlannedRequest Next();
  // "prompts fixed:128, outputs uniform:1-64, a tenth cancelled, seed 1"
  std::string Describe() const;

 private:
  struct Line {
    std::string prompt;         // or, where empty,
    int64_t prompt_tokens = 0;  // so many drawn ones
    int64_t max_tokens = 0;
  };

  Workload(const WorkloadOptions& options, const v1::Model& model);
  absl::Status ReadFile();
  int32_t DrawId();
  void FillPrompt(int64_t n_tokens, v1::CompleteRequest* request);
  void PlanCancel(int64_t max_tokens, PlannedRequest* planned);

  WorkloadOptions options_;
  int64_t vocab_size_;
  int64_t context_tokens_;
  std::vector<int32_t> stop_ids_;
  std::vector<Line> lines_;
  size_t next_line_ = 0;
  Random random_;
  std::vector<int32_t> shared_prefix_;
  std::string cache_salt_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_WORKLOAD_H_
