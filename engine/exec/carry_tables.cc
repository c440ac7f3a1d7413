#include "engine/exec/carry_tables.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "engine/exec/staging_ring.h"

namespace spillway::exec {
namespace {

// Pieces of `total` of at most `most`, as equal as can be.
int64_t PiecesOf(int64_t total, int64_t most) { return total == 0 ? 0 : (total + most - 1) / most; }
// Where piece `i` of `pieces` begins.
int64_t Cut(int64_t total, int64_t pieces, int64_t i) { return total * i / pieces; }

// A block's chunk until it is assigned one: it is in one that was fetched ahead.
constexpr int32_t kAhead = -2;

}  // namespace

CarryTables::CarryTables(const ItemLimits& limits, const kv::Geometry& geometry, const kv::BlockStore& store,
                         int64_t chunk_bytes, int32_t round_chunks)
    : geometry_(geometry),
      store_(store),
      limits_(limits),
      round_chunks_(round_chunks),
      marks_(static_cast<size_t>(store.max_blocks())) {
  SPILLWAY_CHECK(round_chunks > 1);
  x_plane_bytes_ = geometry.block_tokens * geometry.chi_bytes();
  chunk_kv_blocks_ = static_cast<int32_t>(chunk_bytes / (2 * geometry.slot_bytes()));
  chunk_x_blocks_ = static_cast<int32_t>(chunk_bytes / x_plane_bytes_);
  SPILLWAY_CHECK(chunk_kv_blocks_ > 0 && (chunk_x_blocks_ > 0 || !store.stores_x()));
  // K and V may lie apart.
  max_chunk_runs_ = std::max(2 * chunk_kv_blocks_, chunk_x_blocks_);

  const size_t max_blocks = static_cast<size_t>(limits.max_blocks);
  blocks_taken_.reserve(max_blocks);
  resident_x_.reserve(max_blocks);
  reads_.reserve(max_blocks);
  sorted_.reserve(max_blocks);
  runs_.reserve(2 * max_blocks);
  positions_.reserve(max_blocks);
  blocks_.reserve(max_blocks);
  sequences_.reserve(max_blocks);
  chunks_.reserve(max_blocks);
  carried_chunks_.reserve(max_blocks);
  rounds_.reserve(max_blocks + 1);
  chunk_reads_.reserve(max_blocks + 1);
  first_rows_.reserve(static_cast<size_t>(limits.max_segments));
  ahead_.reserve(static_cast<size_t>(round_chunks));
  ahead_blocks_.reserve(static_cast<size_t>(round_chunks) *
                        static_cast<size_t>(std::max(chunk_kv_blocks_, chunk_x_blocks_)));
  arranged_.reserve(max_blocks);
}

void CarryTables::Build(absl::Span<const Segment> segments, const kv::DeviceCache& cache,
                        const SplitPlan& plan, int64_t n_ahead) {
  SaveAhead(n_ahead);
  chunks_.clear();
  carried_chunks_.clear();
  rounds_.clear();
  runs_.clear();
  positions_.clear();
  sequences_.clear();
  blocks_.clear();
  CollectBlocks(segments, cache);
  CountForms(plan);
  if (plan.mode != SplitMode::kSerial) TakeAhead();
  Arrange();
  if (plan.mode == SplitMode::kSerial) {
    AssignInRounds();
  } else {
    AddAhead();
    AssignInTurns();
  }
  ListReaders(segments);
}

CarriedBlock* CarryTables::Find(kv::BlockId block) {
  const Mark& mark = marks_[static_cast<size_t>(block)];
  if (mark.epoch != epoch_ || mark.index < 0) return nullptr;
  return &blocks_taken_[static_cast<size_t>(mark.index)];
}

void CarryTables::CollectBlocks(absl::Span<const Segment> segments, const kv::DeviceCache& cache) {
  blocks_taken_.clear();
  resident_x_.clear();
  stored_ = {};
  full_blocks_ = 0;
  if (++epoch_ == 0) {  // after 2^32 steps, epochs start anew
    std::fill(marks_.begin(), marks_.end(), Mark{});
    epoch_ = 1;
  }
  const int32_t block_tokens = geometry_.block_tokens;
  for (const Segment& segment : segments) {
    const int32_t n_full = segment.first_position / block_tokens;
    for (int32_t i = 0; i < n_full; ++i) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(i)];
      Mark& mark = marks_[static_cast<size_t>(block)];
      if (mark.epoch == epoch_) continue;
      mark = {epoch_, -1};
      ++full_blocks_;
      CarriedBlock taken;
      taken.block = block;
      taken.position = i * block_tokens;
      taken.content = cache.ContentOf(block);
      if (cache.IsElsewhere(block)) {
        taken.form = store_.PlanesOf(block).form();
        ++stored_.Of(taken.form);
        blocks_taken_.push_back(taken);
      } else if (!cache.PlanesOf(block).has_kv()) {
        taken.x_slot = cache.PlanesOf(block).x;
        resident_x_.push_back(taken);
      }
    }
  }
  const auto n_carried = static_cast<int64_t>(blocks_taken_.size());
  resident_x_blocks_ = static_cast<int64_t>(resident_x_.size());
  SPILLWAY_CHECK(n_carried + resident_x_blocks_ <= static_cast<int64_t>(blocks_taken_.capacity()));
  // By their places, so that neighbours are read as one run.
  std::sort(resident_x_.begin(), resident_x_.end(),
            [](const CarriedBlock& a, const CarriedBlock& b) { return a.x_slot < b.x_slot; });
  blocks_taken_.insert(blocks_taken_.end(), resident_x_.begin(), resident_x_.end());
  for (size_t i = 0; i < blocks_taken_.size(); ++i) {
    marks_[static_cast<size_t>(blocks_taken_[i].block)].index = static_cast<int32_t>(i);
  }
}

void CarryTables::CountForms(const SplitPlan& plan) {
  const int64_t n = static_cast<int64_t>(blocks_taken_.size()) - resident_x_blocks_;
  const double planned = static_cast<double>(plan.tokens.carried_kv_tokens + plan.tokens.carried_x_tokens);
  const double x_share = planned > 0 ? static_cast<double>(plan.tokens.carried_x_tokens) / planned : 0.0;
  x_blocks_ = std::clamp<int64_t>(std::llround(x_share * static_cast<double>(n)), stored_.x_blocks,
                                  stored_.x_blocks + stored_.both_blocks);
  kv_blocks_ = n - x_blocks_;
}

void CarryTables::SaveAhead(int64_t n_ahead) {
  SPILLWAY_CHECK(n_ahead <= static_cast<int64_t>(carried_chunks_.size()) && n_ahead <= round_chunks_);
  ahead_.clear();
  ahead_blocks_.clear();
  ahead_kv_blocks_ = ahead_x_blocks_ = recurring_chunks_ = 0;
  const auto n_carried = static_cast<int64_t>(carried_chunks_.size());
  const int64_t n_saved = std::max(n_ahead, std::min<int64_t>(n_carried, AheadChunksMax(round_chunks_)));
  for (int64_t i = 0; i < n_saved; ++i) {
    const CarryChunk& chunk = chunks_[static_cast<size_t>(carried_chunks_[static_cast<size_t>(i)])];
    ahead_.push_back(
        {chunk.form, static_cast<int32_t>(ahead_blocks_.size()), chunk.n_blocks, /*fetched=*/i < n_ahead});
    const auto first = blocks_taken_.begin() + chunk.first_block;
    ahead_blocks_.insert(ahead_blocks_.end(), first, first + chunk.n_blocks);
  }
}

bool CarryTables::IsCarriedAsItWas(const Ahead& ahead, kv::FormCounts* forms) {
  const kv::Form other = ahead.form == kv::Form::kX ? kv::Form::kKv : kv::Form::kX;
  for (int32_t i = 0; i < ahead.n_blocks; ++i) {
    const CarriedBlock& was = ahead_blocks_[static_cast<size_t>(ahead.first + i)];
    const CarriedBlock* const is = Find(was.block);
    if (is == nullptr || is->x_slot >= 0 || is->content != was.content || is->form == other) return false;
    ++forms->Of(is->form);
  }
  return true;
}

void CarryTables::TakeAhead() {
  for (Ahead& ahead : ahead_) {
    const bool is_x = ahead.form == kv::Form::kX;
    const int64_t n_form = is_x ? x_blocks_ : kv_blocks_;
    const int64_t left = n_form - AheadOf(ahead.form) - ahead.n_blocks;
    if (n_form == 0 || left < 0) continue;
    // Small pieces, left from when there was less, would stay for good.
    const int64_t even = n_form / PiecesOf(n_form, ChunkBlocks(ahead.form));
    if (4 * ahead.n_blocks < 3 * even) continue;
    kv::FormCounts forms;
    if (!IsCarriedAsItWas(ahead, &forms)) continue;
    // Those that have no other form must have room in what is left.
    if (stored_.Of(ahead.form) - forms.Of(ahead.form) > left) continue;
    ++recurring_chunks_;
    if (!ahead.fetched) continue;
    stored_.Of(ahead.form) -= forms.Of(ahead.form);
    stored_.both_blocks -= forms.both_blocks;
    ahead.taken = true;
    AheadOf(ahead.form) += ahead.n_blocks;
    for (int32_t i = 0; i < ahead.n_blocks; ++i) {
      CarriedBlock& was = ahead_blocks_[static_cast<size_t>(ahead.first + i)];
      CarriedBlock& is = *Find(was.block);
      was = is;
      is.chunk = kAhead;
    }
  }
}

void CarryTables::Arrange() {
  int64_t both_as_x = x_blocks_ - ahead_x_blocks_ - stored_.x_blocks;
  for (CarriedBlock& taken : Carried()) {
    if (taken.chunk == kAhead) continue;
    taken.as_x = taken.form == kv::Form::kX || (taken.form == kv::Form::kBoth && both_as_x-- > 0);
  }
  arranged_.clear();
  for (const kv::Form form : {kv::Form::kX, kv::Form::kKv}) {
    for (const Ahead& ahead : ahead_) {
      if (!ahead.taken || ahead.form != form) continue;
      const auto first = ahead_blocks_.begin() + ahead.first;
      arranged_.insert(arranged_.end(), first, first + ahead.n_blocks);
    }
    for (const CarriedBlock& taken : Carried()) {
      if (taken.chunk != kAhead && taken.as_x == (form == kv::Form::kX)) arranged_.push_back(taken);
    }
  }
  std::copy(arranged_.begin(), arranged_.end(), blocks_taken_.begin());
  for (size_t i = 0; i < arranged_.size(); ++i) {
    marks_[static_cast<size_t>(arranged_[i].block)].index = static_cast<int32_t>(i);
  }
}

void CarryTables::AddAhead() {
  int64_t next_x = 0, next_kv = FirstKv();
  for (const Ahead& ahead : ahead_) {
    if (!ahead.taken) continue;
    int64_t& next = ahead.form == kv::Form::kX ? next_x : next_kv;
    AddChunk(ahead.form, /*resident=*/false, static_cast<size_t>(next), ahead.n_blocks);
    next += ahead.n_blocks;
  }
}

void CarryTables::AssignInTurns() {
  // In proportion, so that the link and the rebuilding compute are busy side by side however small the ring
  // is.
  const int64_t x_left = x_blocks_ - ahead_x_blocks_, kv_left = kv_blocks_ - ahead_kv_blocks_;
  const int64_t x_chunks = PiecesOf(x_left, chunk_x_blocks_);
  const int64_t kv_chunks = PiecesOf(kv_left, chunk_kv_blocks_);
  const int64_t carried_chunks = x_chunks + kv_chunks;
  const int64_t resident_chunks = PiecesOf(resident_x_blocks_, chunk_x_blocks_);
  // Whose turn it is of two kinds, of which so many of so many had theirs.
  const auto first_is_next = [](int64_t a, int64_t n_a, int64_t b, int64_t n_b) {
    return b == n_b || (a < n_a && (2 * a + 1) * n_b <= (2 * b + 1) * n_a);
  };
  for (int64_t x = 0, kv = 0, resident = 0; x + kv + resident < carried_chunks + resident_chunks;) {
    if (!first_is_next(x + kv, carried_chunks, resident, resident_chunks)) {
      AddPiece(kv::Form::kX, true, FirstResident(), resident_x_blocks_, resident_chunks, resident++);
    } else if (first_is_next(x, x_chunks, kv, kv_chunks)) {
      AddPiece(kv::Form::kX, false, ahead_x_blocks_, x_left, x_chunks, x++);
    } else {
      AddPiece(kv::Form::kKv, false, FirstKv() + ahead_kv_blocks_, kv_left, kv_chunks, kv++);
    }
  }
}

void CarryTables::AssignInRounds() {
  const int64_t most = std::max(x_blocks_, kv_blocks_);
  if (most + resident_x_blocks_ == 0) return;
  // What the largest of n rounds takes of the ring. With a round for each block it is one chunk of each form.
  const auto chunks_of = [&](int64_t n) {
    return PiecesOf(PiecesOf(x_blocks_, n), chunk_x_blocks_) +
           PiecesOf(PiecesOf(kv_blocks_, n), chunk_kv_blocks_);
  };
  int64_t n = 1;
  while (n < most && chunks_of(n) > round_chunks_) ++n;
  for (int64_t i = 0; i < n; ++i) {
    const auto part = [&](int64_t total) { return Cut(total, n, i + 1) - Cut(total, n, i); };
    CarryRound round;
    round.first_chunk = static_cast<int32_t>(chunks_.size());
    round.n_x = static_cast<int32_t>(PiecesOf(part(x_blocks_), chunk_x_blocks_));
    round.n_resident = static_cast<int32_t>(PiecesOf(part(resident_x_blocks_), chunk_x_blocks_));
    round.n_kv = static_cast<int32_t>(PiecesOf(part(kv_blocks_), chunk_kv_blocks_));
    AddPieces(kv::Form::kX, false, Cut(x_blocks_, n, i), part(x_blocks_), round.n_x);
    AddPieces(kv::Form::kX, true, FirstResident() + Cut(resident_x_blocks_, n, i), part(resident_x_blocks_),
              round.n_resident);
    AddPieces(kv::Form::kKv, false, FirstKv() + Cut(kv_blocks_, n, i), part(kv_blocks_), round.n_kv);
    const size_t first = static_cast<size_t>(round.first_chunk);
    if (round.n_x > 0) chunks_[first].gate = CarryGate::kRebuilt;
    if (round.n_kv > 0) chunks_[chunks_.size() - static_cast<size_t>(round.n_kv)].gate = CarryGate::kExposed;
    rounds_.push_back(round);
  }
}

void CarryTables::AddPieces(kv::Form form, bool resident, int64_t first, int64_t n, int64_t pieces) {
  for (int64_t i = 0; i < pieces; ++i) AddPiece(form, resident, first, n, pieces, i);
}

void CarryTables::AddPiece(kv::Form form, bool resident, int64_t first, int64_t n, int64_t pieces,
                           int64_t i) {
  const int64_t begin = Cut(n, pieces, i);
  AddChunk(form, resident, static_cast<size_t>(first + begin),
           static_cast<int32_t>(Cut(n, pieces, i + 1) - begin));
}

void CarryTables::AddChunk(kv::Form form, bool resident, size_t first, int32_t n) {
  const int32_t index = static_cast<int32_t>(chunks_.size());
  CarryChunk chunk;
  chunk.form = form;
  chunk.resident = resident;
  chunk.first_block = static_cast<int32_t>(first);
  chunk.n_blocks = n;
  chunk.first_position = static_cast<int32_t>(positions_.size());
  for (int32_t place = 0; place < n; ++place) {
    CarriedBlock& taken = blocks_taken_[first + static_cast<size_t>(place)];
    taken.chunk = index;
    taken.place = place;
    if (form == kv::Form::kX) positions_.push_back(taken.position);
  }
  AddRuns(chunk, first);
  chunks_.push_back(chunk);
  if (!resident) carried_chunks_.push_back(index);
}

void CarryTables::AddRuns(CarryChunk& chunk, size_t first) {
  const int64_t slot_bytes = geometry_.slot_bytes();
  const bool is_x = chunk.form == kv::Form::kX;
  const int64_t block_bytes = is_x ? x_plane_bytes_ : 2 * slot_bytes;
  chunk.first_run = static_cast<int32_t>(runs_.size());
  for (int32_t place = 0; place < chunk.n_blocks; ++place) {
    const CarriedBlock& taken = blocks_taken_[first + static_cast<size_t>(place)];
    const int64_t offset_bytes = place * block_bytes;
    if (chunk.resident) {
      AddRun(chunk, taken.x_slot, block_bytes, offset_bytes);
      continue;
    }
    const kv::Planes& planes = store_.PlanesOf(taken.block);
    if (is_x) {
      AddRun(chunk, planes.x, block_bytes, offset_bytes);
    } else {
      AddRun(chunk, planes.k, slot_bytes, offset_bytes);
      AddRun(chunk, planes.v, slot_bytes, offset_bytes + slot_bytes);
    }
  }
  chunk.n_runs = static_cast<int32_t>(runs_.size()) - chunk.first_run;
  chunk.size_bytes = chunk.n_blocks * block_bytes;
}

void CarryTables::AddRun(const CarryChunk& chunk, int32_t slot, int64_t size_bytes, int64_t offset_bytes) {
  SPILLWAY_DCHECK(slot >= 0);
  const int64_t slot_bytes = geometry_.slot_bytes();
  if (static_cast<int32_t>(runs_.size()) > chunk.first_run) {
    CarryRun& last = runs_.back();
    if (last.slot * slot_bytes + last.size_bytes == slot * slot_bytes) {
      last.size_bytes += static_cast<int32_t>(size_bytes);
      return;
    }
  }
  runs_.push_back({slot, static_cast<int32_t>(size_bytes), offset_bytes});
}

void CarryTables::ListReaders(absl::Span<const Segment> segments) {
  const int32_t block_tokens = geometry_.block_tokens;
  SPILLWAY_CHECK(static_cast<int64_t>(segments.size()) <= limits_.max_segments);
  reads_.clear();
  first_rows_.clear();
  chunk_reads_.assign(chunks_.size() + 1, 0);
  int32_t n_rows = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    first_rows_.push_back(n_rows);
    n_rows += static_cast<int32_t>(segments[s].tokens.size());
    const int32_t n_full = segments[s].first_position / block_tokens;
    for (int32_t i = 0; i < n_full; ++i) {
      CarriedBlock* carried = Find(segments[s].blocks[static_cast<size_t>(i)]);
      if (carried == nullptr) continue;
      ++carried->readers;
      SPILLWAY_CHECK(static_cast<int64_t>(reads_.size()) < limits_.max_blocks);
      reads_.push_back({carried->chunk, static_cast<int32_t>(s), carried->place});
      ++chunk_reads_[static_cast<size_t>(carried->chunk) + 1];
    }
  }
  for (size_t c = 0; c < chunks_.size(); ++c) chunk_reads_[c + 1] += chunk_reads_[c];

  // Sorted by chunk, and within one by segment, as they came; chunk_reads_ moves on as places are taken.
  sorted_.resize(reads_.size());
  for (const Read& read : reads_) {
    sorted_[static_cast<size_t>(chunk_reads_[static_cast<size_t>(read.chunk)]++)] = read;
  }
  size_t at = 0;
  for (size_t c = 0; c < chunks_.size(); ++c) {
    chunks_[c].first_sequence = static_cast<int32_t>(sequences_.size());
    while (at < sorted_.size() && sorted_[at].chunk == static_cast<int32_t>(c)) {
      const int32_t s = sorted_[at].segment;
      device::AttentionSequence sequence{};
      sequence.first_row = first_rows_[static_cast<size_t>(s)];
      sequence.n_rows = static_cast<int32_t>(segments[static_cast<size_t>(s)].tokens.size());
      sequence.first_position = segments[static_cast<size_t>(s)].first_position;
      sequence.first_block = static_cast<int32_t>(blocks_.size());
      for (; at < sorted_.size() && sorted_[at].chunk == static_cast<int32_t>(c) && sorted_[at].segment == s;
           ++at) {
        blocks_.push_back({2 * sorted_[at].place, 2 * sorted_[at].place + 1});
        ++sequence.n_blocks;
      }
      // All keys are before the rows, so where each lies among them does not matter.
      sequence.key_end = sequence.n_blocks * block_tokens;
      sequences_.push_back(sequence);
    }
    chunks_[c].n_sequences = static_cast<int32_t>(sequences_.size()) - chunks_[c].first_sequence;
  }
}

}  // namespace spillway::exec
