// DistinctBlocks: how many different blocks a set of sequences reads, kept as sequences come and go, so that
// a step's shape costs nothing per cached token. Step thread only; sized at construction.
#ifndef SPILLWAY_SCHEDULER_DISTINCT_BLOCKS_H_
#define SPILLWAY_SCHEDULER_DISTINCT_BLOCKS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "engine/kv/geometry.h"

namespace spillway::scheduler {

class DistinctBlocks {
 public:
  explicit DistinctBlocks(int64_t n_blocks) : readers_(static_cast<size_t>(n_blocks), 0) {}

  void Add(kv::BlockId block) { distinct_ += readers_[static_cast<size_t>(block)]++ == 0; }
  void Add(absl::Span<const kv::BlockId> blocks) {
    for (const kv::BlockId block : blocks) Add(block);
  }
  void Remove(absl::Span<const kv::BlockId> blocks) {
    for (const kv::BlockId block : blocks) {
      int32_t& readers = readers_[static_cast<size_t>(block)];
      SPILLWAY_DCHECK(readers > 0);
      distinct_ -= --readers == 0;
    }
  }
  int64_t distinct() const { return distinct_; }

 private:
  std::vector<int32_t> readers_;  // [n_blocks]
  int64_t distinct_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_DISTINCT_BLOCKS_H_
