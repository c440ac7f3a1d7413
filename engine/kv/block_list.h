// Some of the blocks in an order, the one that was appended longest ago first. Every operation takes the same
// short time, and after construction none allocates.
#ifndef SPILLWAY_ENGINE_KV_BLOCK_LIST_H_
#define SPILLWAY_ENGINE_KV_BLOCK_LIST_H_

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "engine/kv/geometry.h"

namespace spillway::kv {

class BlockList {
 public:
  explicit BlockList(int64_t n_blocks)
      : links_(static_cast<size_t>(n_blocks) + 1), head_(static_cast<BlockId>(n_blocks)) {
    At(head_) = {head_, head_};
  }

  bool empty() const { return size_ == 0; }
  int64_t size() const { return size_; }
  bool Contains(BlockId block) const { return links_[static_cast<size_t>(block)].older != kNoBlock; }
  // kNoBlock: the list is empty.
  BlockId oldest() const { return Next(head_); }
  // The one appended next after `block`, which is in the list; kNoBlock: it is the newest.
  BlockId Next(BlockId block) const {
    const BlockId next = links_[static_cast<size_t>(block)].newer;
    return next == head_ ? kNoBlock : next;
  }

  // REQUIRES: not in the list.
  void Append(BlockId block) {
    SPILLWAY_DCHECK(!Contains(block));
    const BlockId newest = At(head_).older;
    At(block) = {newest, head_};
    At(newest).newer = block;
    At(head_).older = block;
    ++size_;
  }
  // REQUIRES: in the list.
  void Remove(BlockId block) {
    SPILLWAY_DCHECK(Contains(block));
    At(At(block).older).newer = At(block).newer;
    At(At(block).newer).older = At(block).older;
    At(block) = {};
    --size_;
  }

 private:
  struct Link {
    BlockId older = kNoBlock;
    BlockId newer = kNoBlock;
  };
  Link& At(BlockId block) { return links_[static_cast<size_t>(block)]; }

  std::vector<Link> links_;  // [n_blocks + 1], the last one being the list's ends
  const BlockId head_;
  int64_t size_ = 0;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_BLOCK_LIST_H_
