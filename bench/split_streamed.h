// Steps of a model whose layers come over an emulated link: four decode batches in a column, the same four by
// rows one after another, and one batch of all their sequences.
#ifndef SPILLWAY_BENCH_SPLIT_STREAMED_H_
#define SPILLWAY_BENCH_SPLIT_STREAMED_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/split_report.h"

namespace spillway::bench {

struct StreamedOptions {
  std::string config_json;  // of the model, whose weights are random
  int32_t threads = 0;      // 0: all
  double link_bytes_per_s = 200e6;
  int32_t items = 4;
  int32_t sequences = 4;  // of an item
  int32_t context = 64;   // cached tokens of a sequence, carried as K and V; whole blocks of 16
  int32_t steps = 2;      // of each kind, after one that warms all
  int32_t row_steps = 1;  // of the items one by one: each is as many passes as there are items
};

// Steps of all sequences, however they are batched.
struct StreamedRun {
  std::string name;
  std::vector<double> wall_s;
  double weights_s = 0;  // of the last step: the link's busy time with them
  int64_t weight_bytes = 0;

  double step_s() const;  // the median
};

struct StreamedResult {
  StreamedRun column;
  StreamedRun row;  // one by one
  StreamedRun one_batch;
  int64_t pass_bytes = 0;    // of the layers' weights
  int64_t device_bytes = 0;  // in use
  double column_over_row() const { return row.step_s() / column.step_s(); }
};

// `stop` ends it early, with Cancelled.
absl::StatusOr<StreamedResult> MeasureStreamed(const StreamedOptions& options, const std::atomic<bool>& stop);

// A table, in the JSON "streamed", and the ratios column_over_row_streamed and
// column_over_one_batch_streamed.
void ReportStreamed(const StreamedOptions& options, const StreamedResult& result, SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_STREAMED_H_
