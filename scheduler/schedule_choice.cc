#include "scheduler/schedule_choice.h"

#include <algorithm>
#include <limits>

namespace spillway::scheduler {
namespace {

int32_t Ceil(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

}  // namespace

absl::string_view NameOf(ScheduleReason reason) {
  switch (reason) {
    case ScheduleReason::kForced:
      return "FORCED";
    case ScheduleReason::kLatencyWanted:
      return "LATENCY_WANTED";
    case ScheduleReason::kOneBatchFits:
      return "ONE_BATCH_FITS";
    case ScheduleReason::kWeightsResident:
      return "WEIGHTS_RESIDENT";
    case ScheduleReason::kWeightsStreamed:
      return "WEIGHTS_STREAMED";
    case ScheduleReason::kPromptsWait:
      return "PROMPTS_WAIT";
  }
  return "";
}

absl::string_view NameOf(exec::Schedule schedule) {
  return schedule == exec::Schedule::kRow ? "row" : "column";
}

int32_t BatchSequences(int32_t max_sequences, int32_t batch_sequences) {
  if (batch_sequences <= 0 || batch_sequences >= max_sequences) return max_sequences;
  return std::max(batch_sequences, (max_sequences + kMostItems - 1) / kMostItems);
}

int32_t LargestBatch(const LoadDescription& load) {
  int64_t most = load.max_sequences > 0 ? load.max_sequences : std::numeric_limits<int32_t>::max();
  if (load.pool_tokens > 0 && load.tokens_per_sequence > 0) {
    most = std::min(most, load.pool_tokens / load.tokens_per_sequence);
  }
  if (load.device_bytes > 0 && load.device_bytes_per_sequence > 0) {
    most = std::min(most, load.device_bytes / load.device_bytes_per_sequence);
  }
  return static_cast<int32_t>(std::max<int64_t>(1, most));
}

ScheduleChoice ChooseSchedule(const LoadDescription& load, std::optional<exec::Schedule> forced) {
  ScheduleChoice choice;
  choice.largest_batch = LargestBatch(load);
  const int64_t sequences = std::max<int64_t>(1, int64_t{load.running_sequences} + load.waiting_sequences);
  const int32_t batches = std::min(kMostItems, Ceil(sequences, choice.largest_batch));
  const auto choose = [&](exec::Schedule schedule, ScheduleReason reason, int32_t n_items) {
    choice.schedule = schedule;
    choice.reason = reason;
    choice.n_items = schedule == exec::Schedule::kColumn ? std::clamp(n_items, 1, kMostItems) : 1;
    return choice;
  };
  using exec::Schedule;
  if (forced.has_value())
    return choose(*forced, ScheduleReason::kForced, batches + (load.prompts > 0 ? 1 : 0));
  if (load.latency_wanted) return choose(Schedule::kRow, ScheduleReason::kLatencyWanted, 1);
  // That more than one batch is queued is no reason yet: one larger batch shares the load just as well.
  if (load.weights_streamed && batches > 1) {
    return choose(Schedule::kColumn, ScheduleReason::kWeightsStreamed, batches + (load.prompts > 0 ? 1 : 0));
  }
  if (load.weights_streamed && load.prompts > 0 && load.running_sequences > 0) {
    return choose(Schedule::kColumn, ScheduleReason::kPromptsWait, batches + 1);
  }
  return choose(Schedule::kRow,
                load.weights_streamed ? ScheduleReason::kOneBatchFits : ScheduleReason::kWeightsResident, 1);
}

}  // namespace spillway::scheduler
