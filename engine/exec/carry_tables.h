// CarryTables: which of a step's cached blocks come over the link, in which form, in which chunks of the
// staging ring, and who reads them. Built once per Begin, for all layers: a chunk of every layer holds the
// same blocks at the same places. Blocks that are resident as X are chunks too: they are rebuilt as carried X
// is, but from device memory.
//
// Chunks of the first layer may have been fetched ahead, as the last step carried them. The tables take such
// a chunk as it is where each of its blocks is still carried, in the same form and with the same content.
//
// A block is carried in a form in which it is stored; where it has both the plan decides.
//
// A block that several sequences read is carried once. In a chunk, block b's K and V are slots 2b and 2b + 1,
// whether they were carried or rebuilt from its X.
//
// Chunks of the two forms take turns. For a serial plan they come in rounds instead, each no more than the
// ring holds at once: the X of a round, then its K and V, in the layer's proportion.
//
// Sized at construction; Build allocates nothing. Step thread only.
#ifndef SPILLWAY_ENGINE_EXEC_CARRY_TABLES_H_
#define SPILLWAY_ENGINE_EXEC_CARRY_TABLES_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/device/ops.h"
#include "engine/exec/executor.h"
#include "engine/kv/block_store.h"
#include "engine/kv/device_cache.h"
#include "engine/kv/geometry.h"

namespace spillway::exec {

// Neighbouring slots of a layer's arena, on the host or of the device cache, that go to one place of a chunk.
struct CarryRun {
  int32_t slot = 0;
  int32_t size_bytes = 0;
  int64_t offset_bytes = 0;  // in the chunk
};

// What the copy of a chunk has to wait for in a serial plan, beside room.
enum class CarryGate : uint8_t {
  kNone,
  kExposed,  // compute has come to where it needs the round's X
  kRebuilt,  // the last round's X is rebuilt
};

struct CarryChunk {
  kv::Form form = kv::Form::kKv;  // kKv or kX
  bool resident = false;          // its X is in the device cache; takes nothing of the ring
  CarryGate gate = CarryGate::kNone;
  int32_t first_block = 0;  // of those that are carried or rebuilt
  int32_t n_blocks = 0;
  int64_t size_bytes = 0;
  int32_t first_run = 0;
  int32_t n_runs = 0;
  int32_t first_position = 0;  // into positions(): of its blocks; of kX
  int32_t first_sequence = 0;
  int32_t n_sequences = 0;
};

// Chunks of a serial plan that lie in the ring together.
struct CarryRound {
  int32_t first_chunk = 0;  // n_x of kX, n_resident of resident X, then n_kv of kKv
  int32_t n_x = 0;
  int32_t n_resident = 0;
  int32_t n_kv = 0;
};

// One distinct block that is carried or rebuilt.
struct CarriedBlock {
  kv::BlockId block = kv::kNoBlock;
  int32_t position = 0;           // of its first token
  int32_t x_slot = -1;            // resident X: where it lies in the device cache
  uint32_t content = 0;           // the cache's ContentOf(block)
  kv::Form form = kv::Form::kKv;  // how it is stored
  bool as_x = false;              // how it is carried
  int32_t readers = 0;            // segments
  int32_t chunk = -1;
  int32_t place = -1;  // in the chunk
};

class CarryTables {
 public:
  // Chunks hold at most `chunk_bytes` of planes, and a round at most `round_chunks` (2 or more). `store` says
  // where blocks lie on the host, and must outlive this. REQUIRES: a block fits in a chunk in every form.
  CarryTables(const ItemLimits& limits, const kv::Geometry& geometry, const kv::BlockStore& store,
              int64_t chunk_bytes, int32_t round_chunks);

  // Takes every cached block of `segments` that is not in `cache`: of them the plan's share of carried X
  // tokens as X, as far as their stored forms allow, the others as K and V; and those that are there as X.
  // The first `n_ahead` carried chunks of the last Build were fetched ahead, layer 0 of them.
  void Build(absl::Span<const Segment> segments, const kv::DeviceCache& cache, const SplitPlan& plan,
             int64_t n_ahead = 0);
  // Whether of those the i-th is one of the carried chunks now. They come first, in the same order.
  bool Took(int64_t i) const { return ahead_[static_cast<size_t>(i)].taken; }
  // Of the last Build's first carried chunks, as many as may be fetched ahead: how many are carried again, or
  // could be, had they been fetched.
  int64_t recurring_chunks() const { return recurring_chunks_; }

  absl::Span<const CarryChunk> chunks() const { return chunks_; }
  // Those that take the link and the ring, as numbers of chunks(), in the same order.
  absl::Span<const int32_t> carried_chunks() const { return carried_chunks_; }
  absl::Span<const CarriedBlock> carried() const {
    return absl::MakeConstSpan(blocks_taken_).first(static_cast<size_t>(x_blocks_ + kv_blocks_));
  }
  // A chunk's blocks by place.
  absl::Span<const CarriedBlock> BlocksOf(const CarryChunk& chunk) const {
    return absl::MakeConstSpan(blocks_taken_)
        .subspan(static_cast<size_t>(chunk.first_block), static_cast<size_t>(chunk.n_blocks));
  }
  // Of a serial plan; empty of others.
  absl::Span<const CarryRound> rounds() const { return rounds_; }
  absl::Span<const CarryRun> runs(const CarryChunk& chunk) const {
    return absl::MakeConstSpan(runs_).subspan(static_cast<size_t>(chunk.first_run),
                                              static_cast<size_t>(chunk.n_runs));
  }
  // Of the first token of each block that is rebuilt, chunk by chunk.
  absl::Span<const int32_t> positions() const { return positions_; }
  // Readers, chunk by chunk; their blocks in blocks().
  absl::Span<const device::AttentionSequence> sequences() const { return sequences_; }
  absl::Span<const device::AttentionBlock> blocks() const { return blocks_; }

  int64_t kv_blocks() const { return kv_blocks_; }
  int64_t x_blocks() const { return x_blocks_; }
  int64_t resident_x_blocks() const { return resident_x_blocks_; }
  // Distinct full blocks of the segments, wherever they are.
  int64_t full_blocks() const { return full_blocks_; }

  int32_t max_runs() const { return max_chunk_runs_; }  // of one chunk

  // Blocks of a form that a chunk holds.
  int32_t ChunkBlocks(kv::Form form) const {
    return form == kv::Form::kX ? chunk_x_blocks_ : chunk_kv_blocks_;
  }

 private:
  struct Read {
    int32_t chunk;
    int32_t segment;
    int32_t place;
  };

  // A chunk that was fetched ahead, or might have been.
  struct Ahead {
    kv::Form form = kv::Form::kKv;
    int32_t first = 0;  // into ahead_blocks_
    int32_t n_blocks = 0;
    bool fetched = false;
    bool taken = false;
  };

  void SaveAhead(int64_t n_ahead);
  // Which of them fit this step's blocks and forms.
  void TakeAhead();
  // Still carried, with the same content and stored in the same form; counts them by their forms.
  bool IsCarriedAsItWas(const Ahead& ahead, kv::FormCounts* forms);
  // What of the blocks in both forms is not ahead: the first ones come as X, as many as the plan wants. Puts
  // all carried blocks in the order of blocks_taken_.
  void Arrange();
  void AddAhead();
  void CollectBlocks(absl::Span<const Segment> segments, const kv::DeviceCache& cache);
  void CountForms(const SplitPlan& plan);
  void AssignInTurns();
  void AssignInRounds();
  // Of blocks_taken_: where those of a kind begin.
  int64_t FirstKv() const { return x_blocks_; }
  // Blocks of a form that chunks fetched ahead hold; they come first among those of their form.
  int64_t& AheadOf(kv::Form form) { return form == kv::Form::kX ? ahead_x_blocks_ : ahead_kv_blocks_; }
  int64_t FirstResident() const { return x_blocks_ + kv_blocks_; }
  // Blocks [first, first + n) of a form, as `pieces` chunks that are as equal as can be.
  void AddPieces(kv::Form form, bool resident, int64_t first, int64_t n, int64_t pieces);
  // Piece `i` of the same.
  void AddPiece(kv::Form form, bool resident, int64_t first, int64_t n, int64_t pieces, int64_t i);
  void AddChunk(kv::Form form, bool resident, size_t first, int32_t n);
  void AddRuns(CarryChunk& chunk, size_t first);
  void AddRun(const CarryChunk& chunk, int32_t slot, int64_t size_bytes, int64_t offset_bytes);
  void ListReaders(absl::Span<const Segment> segments);
  CarriedBlock* Find(kv::BlockId block);
  absl::Span<CarriedBlock> Carried() {
    return absl::MakeSpan(blocks_taken_).first(static_cast<size_t>(x_blocks_ + kv_blocks_));
  }

  const kv::Geometry geometry_;
  const kv::BlockStore& store_;
  const ItemLimits limits_;
  int64_t x_plane_bytes_;
  int32_t chunk_kv_blocks_;
  int32_t chunk_x_blocks_;
  int32_t max_chunk_runs_;
  const int32_t round_chunks_;

  struct Mark {
    uint32_t epoch = 0;
    int32_t index = -1;  // in blocks_taken_; -1: its K and V are on the device
  };
  std::vector<Mark> marks_;  // [max_blocks of the store]
  uint32_t epoch_ = 0;
  // Carried as X, as K and V, then resident as X.
  std::vector<CarriedBlock> blocks_taken_;
  std::vector<CarriedBlock> resident_x_;
  std::vector<Ahead> ahead_;
  std::vector<CarriedBlock> ahead_blocks_;
  std::vector<CarriedBlock> arranged_;
  std::vector<int32_t> first_rows_;   // [segments]
  std::vector<Read> reads_;           // in the segments' order
  std::vector<Read> sorted_;          // by chunk
  std::vector<int32_t> chunk_reads_;  // of each chunk; then where its reads begin

  std::vector<CarryChunk> chunks_;
  std::vector<int32_t> carried_chunks_;
  std::vector<CarryRound> rounds_;
  std::vector<CarryRun> runs_;
  std::vector<int32_t> positions_;
  std::vector<device::AttentionSequence> sequences_;
  std::vector<device::AttentionBlock> blocks_;
  kv::FormCounts stored_;  // of the carried blocks, those that are not ahead
  int64_t kv_blocks_ = 0;
  int64_t x_blocks_ = 0;
  int64_t resident_x_blocks_ = 0;
  int64_t ahead_kv_blocks_ = 0;
  int64_t ahead_x_blocks_ = 0;
  int64_t recurring_chunks_ = 0;
  int64_t full_blocks_ = 0;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_CARRY_TABLES_H_
