// How much host memory this process may still take: the smaller of what the machine has available and what
// its control groups leave. Page cache counts as available in both (the kernel gives it up).
//
// Free functions; thread-safe.
#ifndef SPILLWAY_ENGINE_KV_MEMORY_BUDGET_H_
#define SPILLWAY_ENGINE_KV_MEMORY_BUDGET_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/kv/geometry.h"

namespace spillway::kv {

struct MemoryBudget {
  int64_t total_bytes = 0;      // of the machine, or the least limit of the control groups above this process
  int64_t available_bytes = 0;  // what can be taken now
  std::string source;           // what binds: "MemAvailable", "cgroup v2 /a/b", "cgroup v1 /a/b"

  bool known() const { return total_bytes > 0; }
};

// Reads <root>/proc/meminfo, <root>/proc/self/cgroup and the files of control groups v1 and v2 under
// <root>/sys/fs/cgroup, those of all ancestors included. Unknown (total 0) where there is no /proc/meminfo.
MemoryBudget ReadMemoryBudget(absl::string_view root);

// The pool's size where no flag gives it: what is available less a reserve of max(4 GiB, 10 % of the total)
// for everything else on the machine; on a machine too small for that a quarter of what is available. Never
// more than `max_sequences` sequences of `context_tokens` can fill, nor less than 0. Whether it is enough is
// for HostPool::Create to say.
int64_t SuggestedPoolBytes(const MemoryBudget& budget, const Geometry& geometry, int64_t context_tokens,
                           int64_t max_sequences);

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_MEMORY_BUDGET_H_
