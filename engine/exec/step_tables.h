// StepTables: what one work item's rows are, as the arrays that device operations read. Built once per Begin
// on the host, for all layers: planes are named by slot numbers, which are the same in every layer.
//
// Sized at construction; Build allocates nothing. Step thread only.
#ifndef SPILLWAY_ENGINE_EXEC_STEP_TABLES_H_
#define SPILLWAY_ENGINE_EXEC_STEP_TABLES_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "engine/device/ops.h"
#include "engine/exec/executor.h"
#include "engine/kv/geometry.h"

namespace spillway::exec {

// Counts cached tokens once however many sequences share their blocks. Of the executor, since it has a word
// for every block of the pool.
class DistinctTokens {
 public:
  explicit DistinctTokens(int64_t n_blocks) : seen_(static_cast<size_t>(n_blocks)) {}

  void StartCount();
  // `n_tokens` leading tokens of `block` are cached; adds those that no earlier call of this count added, and
  // returns how many those are.
  int32_t Add(kv::BlockId block, int32_t n_tokens);
  int64_t count() const { return count_; }

 private:
  struct Seen {
    uint32_t epoch = 0;
    int32_t n_tokens = 0;
  };
  std::vector<Seen> seen_;  // [n_blocks]
  uint32_t epoch_ = 0;
  int64_t count_ = 0;
};

// Phase, sequences, rows and reads of `segments`; nothing of what is cached where.
BatchShape ShapeWithoutCache(Phase phase, absl::Span<const Segment> segments);

class StepTables {
 public:
  // A run of the item's rows that one visit computes, and its share of sequences().
  struct Chunk {
    int32_t first_row = 0;
    int32_t n_rows = 0;
    int32_t first_sequence = 0;
    int32_t n_sequences = 0;
  };

  StepTables(const ItemLimits& limits, int32_t chunk_rows, int32_t block_tokens);

  // The planes of a block in the arena that the rows are appended to and attended in; none of a cached block
  // that is elsewhere.
  using PlanesOf = absl::FunctionRef<kv::Planes(kv::BlockId)>;

  // CHECKs what Executor::Begin requires, block ids against `n_blocks` and token ids against `vocab_size`.
  // sequences() and blocks() list those blocks that have planes. A block without is full of cached tokens, so
  // those before it may be listed as if they came after: positions only say what a row may see.
  void Build(absl::Span<const Segment> segments, int64_t n_blocks, int32_t vocab_size, PlanesOf planes_of,
             DistinctTokens& distinct);

  int32_t n_rows() const { return static_cast<int32_t>(ids_.size()); }
  absl::Span<const Chunk> chunks() const { return chunks_; }
  absl::Span<const int32_t> ids() const { return ids_; }
  absl::Span<const device::AppendRow> append() const { return append_; }
  // Grouped by chunk; first_row counts from the chunk's first row.
  absl::Span<const device::AttentionSequence> sequences() const { return sequences_; }
  absl::Span<const device::AttentionBlock> blocks() const { return blocks_; }
  // Rows that need logits: those to sample, one a kSample segment, then all of kAllLogits segments.
  absl::Span<const int32_t> output_rows() const { return output_rows_; }
  absl::Span<const device::SampleRow> samples() const { return samples_; }
  // Where the logits of a kAllLogits segment begin among the kept ones; -1 for other segments.
  absl::Span<const int32_t> kept_begin() const { return kept_begin_; }

  int64_t cached_tokens() const { return cached_tokens_; }  // distinct
  int64_t reads_tokens() const { return reads_tokens_; }

  // What sequences() can grow to: a chunk's border may cut one segment in two.
  static int64_t MaxSequences(const ItemLimits& limits, int32_t chunk_rows) {
    return int64_t{limits.max_segments} + (limits.max_rows + chunk_rows - 1) / chunk_rows;
  }
  int64_t max_sequences() const { return static_cast<int64_t>(sequences_.capacity()); }

 private:
  void CheckSegment(const Segment& segment, int64_t n_blocks, int32_t vocab_size) const;
  // The segment's blocks are in blocks() from `first_block` on, but for `n_absent` without planes.
  void AddRows(const Segment& segment, int32_t first_block, int32_t n_absent, PlanesOf planes_of);
  void AddOutputs(absl::Span<const Segment> segments);

  const ItemLimits limits_;
  const int32_t chunk_rows_;
  const int32_t block_tokens_;

  std::vector<Chunk> chunks_;
  std::vector<int32_t> ids_;
  std::vector<device::AppendRow> append_;
  std::vector<device::AttentionSequence> sequences_;
  std::vector<device::AttentionBlock> blocks_;
  std::vector<int32_t> output_rows_;
  std::vector<device::SampleRow> samples_;
  std::vector<int32_t> kept_begin_;
  int64_t cached_tokens_ = 0;
  int64_t reads_tokens_ = 0;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_STEP_TABLES_H_
