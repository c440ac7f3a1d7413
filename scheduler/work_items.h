// WorkItems: which work items a scheduler makes of an executor, and how large. One count, for the scheduler
// that makes them and for whoever sizes a device before. A plain value.
#ifndef SPILLWAY_SCHEDULER_WORK_ITEMS_H_
#define SPILLWAY_SCHEDULER_WORK_ITEMS_H_

#include <cstdint>
#include <vector>

#include "engine/exec/executor.h"
#include "scheduler/scheduler.h"

namespace spillway::scheduler {

struct WorkItems {
  exec::ItemLimits decode;
  int32_t decodes = 1;   // decode batches: one, or as many as a column has
  bool latency = false;  // and one for row passes beside columns
  exec::ItemLimits prefill;
  int32_t prefills = 0;

  std::vector<exec::ItemLimits> All() const;
};

// `blocks_per_sequence`: at most. `chunk_rows`: the executor's. `columns`: whether there may be any.
WorkItems WorkItemsOf(const SchedulerOptions& options, int64_t blocks_per_sequence, int32_t chunk_rows,
                      bool columns);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_WORK_ITEMS_H_
