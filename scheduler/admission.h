// Admission: which sequences hold blocks and a place, who comes in next, and who must give way.
//
// The order of sequences (Sequence::RunsBefore) decides both ways: the best waiting one comes in first, and
// under pressure the worst running one goes. It is total and never changes, so no two sequences can push each
// other out in turn, and the best one always gets on: alone it fits, as was checked when it was accepted.
// Before that order, those go who cannot use their blocks: sequences that ended within a batch, then those
// whose reader does not keep up.
//
// A waiting sequence of higher priority makes room for itself when those of lower priority hold enough.
// Nobody passes the first waiting one, so a large request is not starved by small ones; priorities are
// strict, so a low one waits as long as higher ones keep coming.
//
// Step thread only.
#ifndef SPILLWAY_SCHEDULER_ADMISSION_H_
#define SPILLWAY_SCHEDULER_ADMISSION_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/clock.h"
#include "scheduler/batch.h"
#include "scheduler/distinct_blocks.h"
#include "scheduler/prefill_queue.h"
#include "scheduler/request_queue.h"
#include "scheduler/scheduler.h"
#include "scheduler/sequence.h"

namespace spillway::scheduler {

class Admission {
 public:
  // So long after its pause a slow reader's sequence gives way to waiting requests; at once to decoding ones.
  static constexpr int64_t kPauseBeforeParkedNs = kNsPerSecond;

  struct Limits {
    int32_t max_sequences = 0;
    int32_t reserve_output_tokens = 0;
    int64_t max_blocks = 0;  // of the store
  };

  // All references must outlive this object.
  Admission(const Limits& limits, const CacheRoom& room, PrefillQueue& prefill, Observer& observer);

  // Best first.
  absl::Span<Sequence* const> running() const { return running_; }
  RequestQueue& queue() { return queue_; }
  const RequestQueue& queue() const { return queue_; }

  // Lets the first waiting sequence in when blocks for its tokens and its output reserve are available, or
  // can be made so, and a place is free. Null when it must wait on. Nobody is pushed out of a decode pass
  // that runs.
  Sequence* AdmitNext(MonotonicNs now);
  // Something changed that AdmitNext cannot see.
  void Reconsider() { ++changes_; }

  // Room for the next row. Others may have to give way, but for those in a decode pass that runs; false:
  // `sequence` itself had to, or has to wait for that pass. REQUIRES: it is in no batch.
  bool GrowForDecode(Sequence& sequence);

  // The sequence ends, wherever it is. In a running batch it stays until the batch is over; a batch that has
  // nobody else is abandoned.
  void Retire(Sequence& sequence);
  // A member that left its batch: the batch is over, its blocks go.
  void GiveUp(Sequence& sequence);
  // Parked sequences of a request whose reader moves again wait for a place.
  void Unpark(ActiveRequest& request);

  // Sequences of the next decode pass, as readers of blocks: for its shape.
  void JoinDecode(Sequence& sequence);
  void LeaveDecode(Sequence& sequence);
  // Computed tokens went from `full_blocks_before` full blocks to more.
  void OnAdvanced(const Sequence& sequence, int32_t full_blocks_before);
  int64_t distinct_decode_blocks() const { return decode_blocks_.distinct(); }
  int64_t decode_readers() const { return decode_readers_; }

  int64_t preemptions() const { return preemptions_; }

 private:
  // False: a place or blocks are missing.
  bool TryAdmit(Sequence& sequence);
  // Sends away who must give way to the waiting `sequence`; false where that would not be enough.
  bool MakeRoom(Sequence& sequence, MonotonicNs now);
  // Those of which anybody may be sent away for such a sequence, first who should.
  void ListVictims(const Sequence& sequence, MonotonicNs now);
  // How many slots more would be available, were the victims gone: what nobody else holds.
  int64_t CountVictimsSlots();
  // To hold the sequence's tokens and its output reserve.
  int32_t RoomTokens(const Sequence& sequence) const;
  // Null: all are in a decode pass.
  Sequence* WorstRunning();
  void Preempt(Sequence& sequence);
  void AbandonBatch(Batch& batch);

  const Limits limits_;
  const CacheRoom& room_;
  PrefillQueue& prefill_;
  Observer& observer_;
  RequestQueue queue_;
  std::vector<Sequence*> running_;  // [max_sequences], by RunsBefore
  std::vector<Sequence*> victims_;  // [max_sequences], of MakeRoom
  std::vector<int32_t> held_;       // [max_blocks], by how many victims; all 0 but in CountVictimsSlots
  DistinctBlocks decode_blocks_;
  int64_t decode_readers_ = 0;
  // Counts what may let the first waiting one in; it is not tried again before that changes.
  uint64_t changes_ = 1;
  const Sequence* blocked_ = nullptr;
  uint64_t blocked_at_change_ = 0;
  int64_t preemptions_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_ADMISSION_H_
