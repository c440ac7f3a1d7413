#include "scheduler/prefill_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "scheduler/active_request.h"

namespace spillway::scheduler {

int32_t PrefillQueue::PieceRows(int32_t chunk_rows, int32_t rows) {
  const int32_t share = std::max(1, rows / kItems);
  return share < chunk_rows ? share : share - share % chunk_rows;
}

PrefillQueue::PrefillQueue(const Limits& limits, Pacer& pacer)
    : limits_(limits), pacer_(pacer), distinct_(limits.max_blocks) {
  waiting_.reserve(static_cast<size_t>(limits.max_sequences));
  candidates_.reserve(static_cast<size_t>(limits.max_sequences + kItems));
  picks_.reserve(static_cast<size_t>(limits.max_sequences + kItems));
}

absl::StatusOr<std::unique_ptr<PrefillQueue>> PrefillQueue::Create(exec::Executor& executor,
                                                                   const Limits& limits, Pacer& pacer,
                                                                   Planner* planner) {
  std::unique_ptr<PrefillQueue> queue(new PrefillQueue(limits, pacer));
  queue->chunk_rows_ = executor.chunk_rows();
  for (int32_t i = 0; i < kItems; ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(auto item, executor.CreateWorkItem(limits.item));
    queue->batches_.push_back(
        std::make_unique<Batch>(executor, std::move(item), limits.block_tokens, planner));
  }
  return queue;
}

void PrefillQueue::Add(Sequence& sequence) {
  SPILLWAY_CHECK(sequence.batch == nullptr && sequence.rows_left() > 0);
  SPILLWAY_CHECK(waiting_.size() < waiting_.capacity());
  sequence.state = SequenceState::kPrefill;
  waiting_.push_back(&sequence);
}

bool PrefillQueue::Remove(Sequence& sequence) {
  const auto it = std::find(waiting_.begin(), waiting_.end(), &sequence);
  if (it == waiting_.end()) return false;
  waiting_.erase(it);
  return true;
}

const Batch* PrefillQueue::TwinOf(const Sequence& sequence) const {
  const kv::BlockHash* hash = sequence.cache.NextHash();
  if (hash == nullptr) return nullptr;
  for (const auto& batch : batches_) {
    if (!batch->running() || batch->rows_left() > sequence.rows_left()) continue;
    for (const Batch::Member& member : batch->members()) {
      const kv::BlockHash* computing = member.left ? nullptr : member.sequence->cache.NextHash();
      if (computing != nullptr && *computing == *hash) return batch.get();
    }
  }
  return nullptr;
}

double PrefillQueue::VisitNs(const Sequence& sequence, int32_t rows) const {
  // A long prompt's last piece says most: attention makes its rows dearer than others'.
  if (sequence.row_ns > 0) return sequence.row_ns * std::min(rows, chunk_rows_);
  return pacer_.VisitNs(rows);
}

PrefillCandidate PrefillQueue::CandidateOf(const Batch& batch) const {
  PrefillCandidate candidate;
  candidate.has_item = true;
  candidate.rows_left = batch.rows_left();
  bool any = false;
  candidate.due_ns = std::numeric_limits<double>::infinity();
  for (const Batch::Member& member : batch.members()) {
    if (member.left) continue;
    const Sequence& sequence = *member.sequence;
    candidate.rows_left += sequence.rows_left() - member.rows;  // what follows this piece
    if (!any || sequence.request.number() < candidate.number) {
      candidate.number = sequence.request.number();
      candidate.priority = sequence.request.request().priority;
    }
    candidate.due_ns =
        std::min(candidate.due_ns, PrefillPolicy::DueNs(static_cast<double>(sequence.request.arrival_ns()),
                                                        pacer_.PromptNs(sequence.rows_left())));
    any = true;
  }
  SPILLWAY_DCHECK(any);
  candidate.is_long = candidate.rows_left > chunk_rows_;
  candidate.visit_ns = VisitNs(*batch.members()[0].sequence, batch.rows());
  return candidate;
}

PrefillCandidate PrefillQueue::CandidateOf(const Sequence& sequence) const {
  PrefillCandidate candidate;
  candidate.priority = sequence.request.request().priority;
  candidate.number = sequence.request.number();
  candidate.rows_left = sequence.rows_left();
  candidate.is_long = candidate.rows_left > chunk_rows_;
  candidate.visit_ns = VisitNs(sequence, std::min(sequence.rows_left(), batches_[0]->limits().max_rows));
  candidate.due_ns = PrefillPolicy::DueNs(static_cast<double>(sequence.request.arrival_ns()),
                                          pacer_.PromptNs(candidate.rows_left));
  return candidate;
}

PrefillQueue::Pick PrefillQueue::PickNext(bool only_latency) {
  const auto is_latency = [](const Sequence& sequence) {
    return sequence.request.request().objective == Objective::kLatency;
  };
  candidates_.clear();
  picks_.clear();
  int32_t free_items = 0;
  for (const auto& batch : batches_) {
    if (!batch->running()) {
      ++free_items;
      continue;
    }
    if (only_latency && (batch->plan().schedule == exec::Schedule::kColumn ||
                         std::none_of(batch->members().begin(), batch->members().end(),
                                      [&](const auto& m) { return !m.left && is_latency(*m.sequence); }))) {
      continue;
    }
    candidates_.push_back(CandidateOf(*batch));
    picks_.push_back({batch.get(), nullptr, {}});
  }
  const size_t n_running = candidates_.size();
  for (Sequence* sequence : waiting_) {
    if (only_latency && !is_latency(*sequence)) continue;
    if (const int32_t found = sequence->cache.AdoptPublished(sequence->n_tokens()); found > 0) {
      adopted_tokens_ += found;
      adopted_prompt_tokens_ += sequence->request.OnPrefixFound(*sequence, found);
    }
    const PrefillCandidate candidate = CandidateOf(*sequence);
    if (const Batch* twin = TwinOf(*sequence); twin != nullptr) {
      // Whoever waits for a piece lends it its place, so that nothing in between holds both up.
      for (size_t i = 0; i < n_running; ++i) {
        if (picks_[i].batch != twin) continue;
        candidates_[i].priority = std::max(candidates_[i].priority, candidate.priority);
        candidates_[i].rows_left = std::min(candidates_[i].rows_left, candidate.rows_left);
        candidates_[i].due_ns = std::min(candidates_[i].due_ns, candidate.due_ns);
      }
      continue;
    }
    candidates_.push_back(candidate);
    picks_.push_back({nullptr, sequence, {}});
  }
  if (candidates_.empty() || (only_latency && n_running == 0 && free_items == 0)) return {};
  const PrefillPolicy::Choice choice = policy_.Choose(candidates_, free_items);
  Pick pick = picks_[static_cast<size_t>(choice.index)];
  pick.choice = choice;
  return pick;
}

Batch& PrefillQueue::Start(const Pick& pick, bool streams_wait, const ScheduleChoice& pass) {
  if (pick.batch != nullptr) return *pick.batch;
  const auto free = std::find_if(batches_.begin(), batches_.end(),
                                 [](const std::unique_ptr<Batch>& batch) { return !batch->running(); });
  SPILLWAY_CHECK(free != batches_.end());
  Batch& batch = **free;
  Fill(batch, *pick.sequence, streams_wait);
  batch.Begin(exec::Phase::kPrefill, CountDistinctTokens(batch), pass);
  return batch;
}

void PrefillQueue::OnVisited(const Pick& pick) {
  policy_.OnVisited(pick.choice);
  pacer_.OnPrefillVisit(pick.choice.visit_ns);
}

void PrefillQueue::Take(Batch& batch, Sequence& sequence, int32_t rows) {
  SPILLWAY_CHECK(Remove(sequence));
  batch.Add(sequence, rows);
}

void PrefillQueue::Fill(Batch& batch, Sequence& first, bool streams_wait) {
  batch.Clear();
  const int32_t most_rows = std::min(pacer_.PieceRows(first.row_ns, streams_wait), batch.limits().max_rows);
  Take(batch, first, std::min(first.rows_left(), most_rows));
  const int32_t packed_rows = std::min(most_rows, chunk_rows_);
  if (first.rows_left() > packed_rows) return;
  const int32_t priority = first.request.request().priority;
  while (Sequence* next = NextToPack(batch, priority, packed_rows - batch.rows())) {
    Take(batch, *next, next->rows_left());
  }
}

Sequence* PrefillQueue::NextToPack(const Batch& batch, int32_t priority, int32_t rows_free) const {
  Sequence* best = nullptr;
  for (Sequence* sequence : waiting_) {
    if (sequence->request.request().priority != priority || sequence->rows_left() > rows_free ||
        !batch.Fits(*sequence, sequence->rows_left())) {
      continue;
    }
    if (best != nullptr && sequence->rows_left() >= best->rows_left()) continue;
    // One that begins with the same block as a member will find that block when this piece is done.
    const kv::BlockHash* hash = sequence->cache.NextHash();
    const bool twin =
        hash != nullptr && std::any_of(batch.members().begin(), batch.members().end(), [&](const auto& m) {
          const kv::BlockHash* other = m.sequence->cache.NextHash();
          return other != nullptr && *other == *hash;
        });
    if (!twin && TwinOf(*sequence) == nullptr) best = sequence;
  }
  return best;
}

int64_t PrefillQueue::CountDistinctTokens(const Batch& batch) {
  int64_t tails = 0;
  for (const Batch::Member& member : batch.members()) {
    const SequenceCache& cache = member.sequence->cache;
    distinct_.Add(cache.full_block_ids());
    tails += cache.computed_tokens() % limits_.block_tokens;
  }
  const int64_t distinct = distinct_.distinct();
  for (const Batch::Member& member : batch.members()) {
    distinct_.Remove(member.sequence->cache.full_block_ids());
  }
  return distinct * limits_.block_tokens + tails;
}

}  // namespace spillway::scheduler
