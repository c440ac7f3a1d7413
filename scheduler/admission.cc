#include "scheduler/admission.h"

#include <algorithm>

#include "base/check.h"
#include "scheduler/active_request.h"

namespace spillway::scheduler {

namespace {

bool InDecodePass(const Sequence& sequence) { return sequence.batch != nullptr && sequence.batch->decodes(); }

}  // namespace

Admission::Admission(const Limits& limits, const CacheRoom& room, PrefillQueue& prefill, Observer& observer)
    : limits_(limits),
      room_(room),
      prefill_(prefill),
      observer_(observer),
      queue_(limits.reserve_output_tokens),
      held_(static_cast<size_t>(limits.max_blocks), 0),
      decode_blocks_(limits.max_blocks) {
  running_.reserve(static_cast<size_t>(limits.max_sequences));
  victims_.reserve(static_cast<size_t>(limits.max_sequences));
}

int32_t Admission::RoomTokens(const Sequence& sequence) const {
  return std::min(sequence.n_tokens() + limits_.reserve_output_tokens, sequence.request.most_tokens());
}

bool Admission::TryAdmit(Sequence& sequence) {
  if (running_.size() >= static_cast<size_t>(limits_.max_sequences)) return false;
  if (!sequence.cache.Acquire(sequence.n_tokens(), RoomTokens(sequence), sequence.request.most_tokens())) {
    return false;
  }
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &sequence, RunsBefore()), &sequence);
  queue_.Remove(sequence);
  prefill_.Add(sequence);
  return true;
}

Sequence* Admission::AdmitNext(MonotonicNs now) {
  Sequence* const sequence = queue_.front();
  if (sequence == nullptr) return nullptr;
  if (sequence == blocked_ && changes_ == blocked_at_change_) return nullptr;
  if (sequence->tokens.empty()) {
    const std::vector<text::TokenId>& prompt = sequence->request.request().prompt;
    sequence->tokens.reserve(static_cast<size_t>(sequence->request.most_tokens()));
    sequence->tokens.assign(prompt.begin(), prompt.end());
  }
  if (TryAdmit(*sequence) || (MakeRoom(*sequence, now) && TryAdmit(*sequence))) return sequence;
  blocked_ = sequence;
  blocked_at_change_ = changes_;
  return nullptr;
}

bool Admission::MakeRoom(Sequence& sequence, MonotonicNs now) {
  ListVictims(sequence, now);
  if (victims_.empty()) return false;
  // Holding what it finds: what it shares with victims does not come free with them.
  const int64_t missing_slots = sequence.cache.HoldFound(sequence.n_tokens(), RoomTokens(sequence));
  const int64_t needed_slots = room_.blocks.available_slots() + missing_slots;
  // Nobody is sent away when it would not be enough.
  const bool enough = CountVictimsSlots() >= missing_slots;
  for (auto it = victims_.begin(); enough && it != victims_.end(); ++it) {
    if (running_.size() < static_cast<size_t>(limits_.max_sequences) &&
        room_.blocks.available_slots() >= needed_slots) {
      break;
    }
    // Abandoning one victim's batch lets go of all that had left it.
    if (std::find(running_.begin(), running_.end(), *it) != running_.end()) Preempt(**it);
  }
  sequence.cache.Release();
  return enough;
}

void Admission::ListVictims(const Sequence& sequence, MonotonicNs now) {
  const int32_t priority = sequence.request.request().priority;
  victims_.clear();
  // First those for whom nobody waits; std::stable_partition would allocate.
  for (const bool unattended : {true, false}) {
    for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
      if (InDecodePass(**it)) continue;
      const ActiveRequest& request = (*it)->request;
      const bool ended = (*it)->state == SequenceState::kEnded;
      if ((ended || request.paused()) != unattended) continue;
      const bool idle =
          ended || (request.paused() && now - request.paused_since_ns() >= kPauseBeforeParkedNs);
      if (idle || request.request().priority < priority) victims_.push_back(*it);
    }
  }
}

int64_t Admission::CountVictimsSlots() {
  kv::BlockStore& blocks = room_.blocks;
  int64_t slots = 0;
  for (const Sequence* victim : victims_) {
    for (const kv::BlockId block : victim->cache.blocks()) {
      if (++held_[static_cast<size_t>(block)] == blocks.references(block)) slots += blocks.SlotsHeldBy(block);
    }
  }
  for (const Sequence* victim : victims_) {
    for (const kv::BlockId block : victim->cache.blocks()) held_[static_cast<size_t>(block)] = 0;
  }
  return slots;
}

Sequence* Admission::WorstRunning() {
  Sequence* worst = nullptr;
  Sequence* paused = nullptr;
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    if (InDecodePass(**it)) continue;
    if ((*it)->state == SequenceState::kEnded) return *it;
    if (paused == nullptr && (*it)->request.paused()) paused = *it;
    if (worst == nullptr) worst = *it;
  }
  return paused != nullptr ? paused : worst;
}

bool Admission::GrowForDecode(Sequence& sequence) {
  while (!sequence.cache.Grow(sequence.n_tokens())) {
    Sequence* const victim = WorstRunning();
    SPILLWAY_CHECK(victim != nullptr);  // `sequence`, at least
    // Others will give way once their pass is over.
    if (victim == &sequence && std::any_of(running_.begin(), running_.end(),
                                           [](const Sequence* other) { return InDecodePass(*other); })) {
      return false;
    }
    Preempt(*victim);
    if (victim == &sequence) return false;
  }
  return true;
}

void Admission::Preempt(Sequence& sequence) {
  if (sequence.batch != nullptr) AbandonBatch(*sequence.batch);
  if (sequence.state == SequenceState::kEnded) return;  // it had left; its blocks went with the batch
  if (sequence.state == SequenceState::kPrefill) SPILLWAY_CHECK(prefill_.Remove(sequence));
  GiveUp(sequence);
  ++preemptions_;
  sequence.request.OnPreempted(sequence);
  observer_.OnPreempted();
  if (sequence.request.paused()) {
    sequence.state = SequenceState::kParked;
  } else {
    queue_.Add(sequence);
  }
}

void Admission::AbandonBatch(Batch& batch) {
  batch.Abandon();
  for (const Batch::Member& member : batch.members()) {
    if (member.left) {
      GiveUp(*member.sequence);
    } else {
      prefill_.Add(*member.sequence);  // a decode pass is abandoned only when all have left
    }
  }
}

void Admission::Retire(Sequence& sequence) {
  const SequenceState was = sequence.state;
  sequence.state = SequenceState::kEnded;
  ++changes_;
  switch (was) {
    case SequenceState::kHeld:
    case SequenceState::kParked:
    case SequenceState::kEnded:
      return;
    case SequenceState::kWaiting:
      queue_.Remove(sequence);
      return;
    case SequenceState::kPrefill:
    case SequenceState::kDecode:
      break;
  }
  if (sequence.batch == nullptr) {
    if (was == SequenceState::kPrefill) SPILLWAY_CHECK(prefill_.Remove(sequence));
    GiveUp(sequence);
    return;
  }
  LeaveDecode(sequence);
  Batch& batch = *sequence.batch;
  batch.Leave(sequence);
  if (batch.live_members() == 0) AbandonBatch(batch);
}

void Admission::GiveUp(Sequence& sequence) {
  LeaveDecode(sequence);
  sequence.cache.Release();
  const auto it = std::find(running_.begin(), running_.end(), &sequence);
  SPILLWAY_CHECK(it != running_.end());
  running_.erase(it);
  ++changes_;
}

void Admission::Unpark(ActiveRequest& request) {
  for (const auto& sequence : request.sequences()) {
    if (sequence->state == SequenceState::kParked) queue_.Add(*sequence);
  }
}

void Admission::JoinDecode(Sequence& sequence) {
  if (sequence.counted_reader) return;
  sequence.counted_reader = true;
  ++decode_readers_;
  decode_blocks_.Add(sequence.cache.full_block_ids());
}

void Admission::LeaveDecode(Sequence& sequence) {
  if (!sequence.counted_reader) return;
  sequence.counted_reader = false;
  --decode_readers_;
  decode_blocks_.Remove(sequence.cache.full_block_ids());
}

void Admission::OnAdvanced(const Sequence& sequence, int32_t full_blocks_before) {
  if (!sequence.counted_reader) return;
  decode_blocks_.Add(sequence.cache.full_block_ids().subspan(static_cast<size_t>(full_blocks_before)));
}

}  // namespace spillway::scheduler
