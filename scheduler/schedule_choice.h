// Which schedule suits a load: row (one batch through all layers: latency) or column (several batches at each
// layer share one load of its weights: throughput), how many batches, and how large one may be. A pure
// function, whose reason is exported. StepLoop obeys it when its next pass begins.
//
// Weights that are resident leave nothing to share: a column would only make every batch end when the last
// one does.
#ifndef SPILLWAY_SCHEDULER_SCHEDULE_CHOICE_H_
#define SPILLWAY_SCHEDULER_SCHEDULE_CHOICE_H_

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "engine/exec/split_plan.h"

namespace spillway::scheduler {

enum class ScheduleReason : uint8_t {
  kForced,           // --schedule says so
  kLatencyWanted,    // a request asks for it
  kOneBatchFits,     // all sequences fit one larger batch, which needs one load of the weights anyway
  kWeightsResident,  // there is no load to share
  kWeightsStreamed,  // more than one batch, and weights are loaded layer by layer
  kPromptsWait,      // weights are streamed, and a prompt's piece shares their load with a decode batch
};
constexpr int kScheduleReasons = 6;
absl::string_view NameOf(ScheduleReason reason);    // "WEIGHTS_STREAMED"
absl::string_view NameOf(exec::Schedule schedule);  // "row"

struct LoadDescription {
  int32_t running_sequences = 0;  // decoding
  int32_t waiting_sequences = 0;  // that could run beside them if there were room
  int32_t prompts = 0;            // being computed or waiting to be
  bool latency_wanted = false;    // and has no passes of its own
  bool weights_streamed = false;

  // What bounds one batch. 0: no bound.
  int32_t max_sequences = 0;
  int64_t tokens_per_sequence = 0;        // cached, by the mean of those that run
  int64_t pool_tokens = 0;                // that the host pool holds
  int64_t device_bytes_per_sequence = 0;  // tail, rows, outputs
  int64_t device_bytes = 0;               // for all of them
};

struct ScheduleChoice {
  exec::Schedule schedule = exec::Schedule::kRow;
  ScheduleReason reason = ScheduleReason::kWeightsResident;
  int32_t n_items = 1;        // batches, and a prompt's piece, that share a load; 1 for row
  int32_t largest_batch = 0;  // sequences of one batch that fit
};

constexpr int32_t kMostItems = 8;

// Sequences of one decode batch: `batch_sequences`, where more than kMostItems batches would not come of it;
// all of them where it is 0 or no fewer.
int32_t BatchSequences(int32_t max_sequences, int32_t batch_sequences);
// Sequences of one batch that every bound allows; at least 1.
int32_t LargestBatch(const LoadDescription& load);
// `forced`: --schedule, where it is not auto.
ScheduleChoice ChooseSchedule(const LoadDescription& load, std::optional<exec::Schedule> forced);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_SCHEDULE_CHOICE_H_
