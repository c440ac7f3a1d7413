#include "scheduler/plan_memo.h"

#include <bit>
#include <cstddef>
#include <initializer_list>

#include "base/check.h"

namespace spillway::scheduler {
namespace {

uint64_t Mix(uint64_t hash, int64_t value) {
  hash = (hash ^ static_cast<uint64_t>(value)) * 0x9E3779B97F4A7C15ULL;
  return hash ^ hash >> 29;
}

uint64_t HashOf(const exec::BatchShape& shape) {
  uint64_t hash = Mix(0, static_cast<int64_t>(shape.phase));
  for (const int64_t value :
       {int64_t{shape.sequences}, int64_t{shape.new_tokens}, int64_t{shape.head_rows}, shape.reads_tokens,
        shape.resident_kv_tokens, shape.resident_x_tokens, shape.host_kv_tokens, shape.host_x_tokens,
        shape.host_both_tokens, shape.weight_load_bytes}) {
    hash = Mix(hash, value);
  }
  return hash;
}

}  // namespace

PlanMemo::PlanMemo(int32_t capacity)
    : entries_(static_cast<size_t>(capacity)), slots_(std::bit_ceil(2 * static_cast<size_t>(capacity)), -1) {
  SPILLWAY_CHECK(capacity > 0);
}

int32_t& PlanMemo::SlotOf(const exec::BatchShape& bucket) {
  return slots_[static_cast<size_t>(HashOf(bucket)) & (slots_.size() - 1)];
}

PlanMemo::Entry* PlanMemo::Find(const exec::BatchShape& bucket) {
  int32_t index = SlotOf(bucket);
  while (index >= 0 && !(entries_[static_cast<size_t>(index)].bucket == bucket)) {
    index = entries_[static_cast<size_t>(index)].next;
  }
  if (index < 0) return nullptr;
  if (index != newest_) {
    Unlink(index);
    PutFirst(index);
  }
  return &entries_[static_cast<size_t>(index)];
}

PlanMemo::Entry& PlanMemo::Put(const exec::BatchShape& bucket) {
  if (Entry* known = Find(bucket); known != nullptr) return *known;
  int32_t index = size_;
  if (size_ < static_cast<int32_t>(entries_.size())) {
    ++size_;
  } else {
    index = oldest_;
    Unlink(index);
    Forget(index);
  }
  Entry& entry = entries_[static_cast<size_t>(index)];
  entry = Entry();
  entry.bucket = bucket;
  int32_t& slot = SlotOf(bucket);
  entry.next = slot;
  slot = index;
  PutFirst(index);
  return entry;
}

void PlanMemo::Unlink(int32_t index) {
  Entry& entry = entries_[static_cast<size_t>(index)];
  (entry.newer >= 0 ? entries_[static_cast<size_t>(entry.newer)].older : newest_) = entry.older;
  (entry.older >= 0 ? entries_[static_cast<size_t>(entry.older)].newer : oldest_) = entry.newer;
}

void PlanMemo::PutFirst(int32_t index) {
  Entry& entry = entries_[static_cast<size_t>(index)];
  entry.newer = -1;
  entry.older = newest_;
  if (newest_ >= 0) entries_[static_cast<size_t>(newest_)].newer = index;
  newest_ = index;
  if (oldest_ < 0) oldest_ = index;
}

void PlanMemo::Forget(int32_t index) {
  int32_t* at = &SlotOf(entries_[static_cast<size_t>(index)].bucket);
  while (*at != index) at = &entries_[static_cast<size_t>(*at)].next;
  *at = entries_[static_cast<size_t>(index)].next;
}

}  // namespace spillway::scheduler
