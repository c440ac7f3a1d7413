// Batches of copies that come round to the same places again and again.
#ifndef SPILLWAY_PROFILER_COPY_BATCHES_H_
#define SPILLWAY_PROFILER_COPY_BATCHES_H_

#include <cstddef>

#include "absl/types/span.h"
#include "engine/device/types.h"

namespace spillway::profiler {

// Calls enqueue(batch) for each round: copies of one batch have no order, so none may write where another
// does.
template <typename Enqueue>
void InRounds(absl::Span<const device::CopyRun> runs, const Enqueue& enqueue) {
  for (size_t first = 0, n = 0; first < runs.size(); first += n) {
    n = 1;
    while (first + n < runs.size() && !(runs[first + n].device == runs[first].device)) ++n;
    enqueue(runs.subspan(first, n));
  }
}

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_COPY_BATCHES_H_
