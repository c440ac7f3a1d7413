#include "scheduler/work_items.h"

#include <algorithm>

#include "scheduler/prefill_queue.h"
#include "scheduler/schedule_choice.h"

namespace spillway::scheduler {

std::vector<exec::ItemLimits> WorkItems::All() const {
  std::vector<exec::ItemLimits> all(static_cast<size_t>(decodes + (latency ? 1 : 0)), decode);
  all.insert(all.end(), static_cast<size_t>(prefills), prefill);
  return all;
}

WorkItems WorkItemsOf(const SchedulerOptions& options, int64_t blocks_per_sequence, int32_t chunk_rows,
                      bool columns) {
  WorkItems items;
  items.decode.max_rows = items.decode.max_segments = items.decode.max_outputs =
      BatchSequences(options.max_sequences, options.batch_sequences);
  items.decode.max_blocks = items.decode.max_segments * blocks_per_sequence;
  items.latency = columns;
  if (columns) {
    items.decodes = (options.max_sequences + items.decode.max_segments - 1) / items.decode.max_segments;
  }
  items.prefill.max_rows = PrefillQueue::PieceRows(chunk_rows, options.prefill_rows);
  items.prefill.max_segments =
      std::min({options.max_sequences, PrefillQueue::kMostPacked, items.prefill.max_rows});
  items.prefill.max_blocks = blocks_per_sequence + items.prefill.max_segments;
  items.prefill.max_outputs = items.prefill.max_segments;
  items.prefills = PrefillQueue::kItems;
  return items;
}

}  // namespace spillway::scheduler
