#include "scheduler/sequence_cache.h"

#include <algorithm>

#include "base/check.h"

namespace spillway::scheduler {

SequenceCache::SequenceCache(const CacheRoom& room, const kv::BlockHash& root,
                             const std::vector<kv::BlockHash>& prompt_hashes)
    : room_(room), root_(root), prompt_hashes_(prompt_hashes) {}

SequenceCache::~SequenceCache() { SPILLWAY_CHECK_MSG(blocks_.empty(), "a sequence's blocks leak"); }

const kv::BlockHash& SequenceCache::HashOf(int32_t block) const {
  const size_t i = static_cast<size_t>(block);
  return i < prompt_hashes_.size() ? prompt_hashes_[i] : own_hashes_[i - prompt_hashes_.size()];
}

bool SequenceCache::Acquire(int32_t n_tokens, int32_t room_tokens, int32_t most_tokens) {
  SPILLWAY_CHECK(n_tokens > 0 && n_tokens <= room_tokens);
  blocks_.reserve(static_cast<size_t>(room_.blocks_for(most_tokens)));
  own_hashes_.reserve(static_cast<size_t>(most_tokens / room_.block_tokens) - prompt_hashes_.size());
  // Found blocks are held at once, so that the allocations below do not evict them.
  if (HoldFound(n_tokens, room_tokens) > 0) {
    Release();
    return false;
  }
  published_blocks_ = static_cast<int32_t>(blocks_.size());
  computed_tokens_ = published_blocks_ * room_.block_tokens;
  SPILLWAY_CHECK(Grow(room_tokens));
  return true;
}

int64_t SequenceCache::HoldFound(int32_t n_tokens, int32_t room_tokens) {
  SPILLWAY_CHECK(blocks_.empty() && computed_tokens_ == 0);
  blocks_.reserve(static_cast<size_t>(room_.blocks_for(room_tokens)));
  const int32_t reusable = std::min(hashed_blocks(), (n_tokens - 1) / room_.block_tokens);
  while (static_cast<int32_t>(blocks_.size()) < reusable) {
    const kv::BlockId found = room_.blocks.Find(HashOf(static_cast<int32_t>(blocks_.size())));
    if (found == kv::kNoBlock) break;
    blocks_.push_back(found);
  }
  const int64_t fresh = room_.blocks_for(room_tokens) - static_cast<int64_t>(blocks_.size());
  return kv::BlockStore::SlotsFor(fresh) - room_.blocks.available_slots();
}

const kv::BlockHash* SequenceCache::NextHash() const {
  const int32_t next = full_blocks();
  if (computed_tokens_ % room_.block_tokens != 0 || next >= hashed_blocks()) return nullptr;
  return &HashOf(next);
}

int32_t SequenceCache::AdoptPublished(int32_t n_tokens) {
  const int32_t before = computed_tokens_;
  const int32_t reusable = (n_tokens - 1) / room_.block_tokens;
  for (int32_t next = full_blocks(); next < reusable; ++next) {
    const kv::BlockHash* hash = NextHash();
    const kv::BlockId found = hash == nullptr ? kv::kNoBlock : room_.blocks.Find(*hash);
    if (found == kv::kNoBlock) break;
    room_.blocks.Unref(blocks_[static_cast<size_t>(next)]);
    blocks_[static_cast<size_t>(next)] = found;
    computed_tokens_ += room_.block_tokens;
    published_blocks_ = next + 1;
  }
  return computed_tokens_ - before;
}

bool SequenceCache::Grow(int32_t n_tokens) {
  const size_t needed = static_cast<size_t>(room_.blocks_for(n_tokens));
  while (blocks_.size() < needed) {
    const kv::BlockId block = room_.blocks.Allocate();
    if (block == kv::kNoBlock) return false;
    SPILLWAY_DCHECK(blocks_.size() < blocks_.capacity());
    blocks_.push_back(block);
  }
  return true;
}

void SequenceCache::Advance(absl::Span<const text::TokenId> tokens, int32_t computed_tokens) {
  SPILLWAY_DCHECK(computed_tokens >= computed_tokens_);
  SPILLWAY_DCHECK(static_cast<size_t>(computed_tokens) <= tokens.size());
  computed_tokens_ = computed_tokens;
  for (; published_blocks_ < full_blocks(); ++published_blocks_) {
    const int32_t block = published_blocks_;
    if (block == hashed_blocks()) {
      const kv::BlockHash& parent = block == 0 ? root_ : HashOf(block - 1);
      own_hashes_.push_back(room_.hasher.ChainHash(
          parent, tokens.subspan(static_cast<size_t>(block) * static_cast<size_t>(room_.block_tokens),
                                 static_cast<size_t>(room_.block_tokens))));
    }
    room_.blocks.Publish(blocks_[static_cast<size_t>(block)], HashOf(block));
  }
}

void SequenceCache::Release() {
  // From the end, so that the cached prefix outlives what cannot be found without it.
  for (auto it = blocks_.rbegin(); it != blocks_.rend(); ++it) room_.blocks.Unref(*it);
  blocks_.clear();
  computed_tokens_ = 0;
  published_blocks_ = 0;
}

}  // namespace spillway::scheduler
