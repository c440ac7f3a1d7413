#include "engine/exec/step_tables.h"

#include <algorithm>

#include "base/check.h"

namespace spillway::exec {

void DistinctTokens::StartCount() {
  count_ = 0;
  if (++epoch_ != 0) return;
  std::fill(seen_.begin(), seen_.end(), Seen{});  // after 2^32 counts, epochs start anew
  epoch_ = 1;
}

int32_t DistinctTokens::Add(kv::BlockId block, int32_t n_tokens) {
  Seen& seen = seen_[static_cast<size_t>(block)];
  if (seen.epoch != epoch_) seen = {epoch_, 0};
  const int32_t added = std::max(0, n_tokens - seen.n_tokens);
  count_ += added;
  seen.n_tokens += added;
  return added;
}

BatchShape ShapeWithoutCache(Phase phase, absl::Span<const Segment> segments) {
  BatchShape shape;
  shape.phase = phase;
  shape.sequences = static_cast<int32_t>(segments.size());
  for (const Segment& segment : segments) {
    // Row i attends to everything before it and to itself.
    const int64_t rows = static_cast<int64_t>(segment.tokens.size());
    shape.new_tokens += static_cast<int32_t>(rows);
    if (segment.output != Output::kNone) {
      shape.head_rows += segment.output == Output::kSample ? 1 : static_cast<int32_t>(rows);
    }
    shape.reads_tokens += rows * segment.first_position + rows * (rows + 1) / 2;
  }
  return shape;
}

StepTables::StepTables(const ItemLimits& limits, int32_t chunk_rows, int32_t block_tokens)
    : limits_(limits), chunk_rows_(chunk_rows), block_tokens_(block_tokens) {
  const size_t max_rows = static_cast<size_t>(limits.max_rows);
  const size_t max_segments = static_cast<size_t>(limits.max_segments);
  const size_t max_chunks = static_cast<size_t>((limits.max_rows + chunk_rows - 1) / chunk_rows);
  chunks_.reserve(max_chunks);
  ids_.reserve(max_rows);
  append_.reserve(max_rows);
  sequences_.reserve(static_cast<size_t>(MaxSequences(limits, chunk_rows)));
  blocks_.reserve(static_cast<size_t>(limits.max_blocks));
  output_rows_.reserve(static_cast<size_t>(limits.max_outputs + limits.max_kept_logits));
  samples_.reserve(static_cast<size_t>(limits.max_outputs));
  kept_begin_.reserve(max_segments);
}

void StepTables::Build(absl::Span<const Segment> segments, int64_t n_blocks, int32_t vocab_size,
                       PlanesOf planes_of, DistinctTokens& distinct) {
  SPILLWAY_CHECK(!segments.empty() && segments.size() <= static_cast<size_t>(limits_.max_segments));
  chunks_.clear();
  ids_.clear();
  append_.clear();
  sequences_.clear();
  blocks_.clear();
  reads_tokens_ = 0;
  distinct.StartCount();
  for (const Segment& segment : segments) {
    CheckSegment(segment, n_blocks, vocab_size);
    const int32_t n_tokens = segment.first_position + static_cast<int32_t>(segment.tokens.size());
    const int32_t n_used = (n_tokens + block_tokens_ - 1) / block_tokens_;
    const int32_t first_block = static_cast<int32_t>(blocks_.size());
    SPILLWAY_CHECK(first_block + n_used <= limits_.max_blocks);
    int32_t n_absent = 0;
    for (int32_t i = 0; i < n_used; ++i) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(i)];
      SPILLWAY_CHECK(block >= 0 && block < n_blocks);
      const int32_t n_cached = segment.first_position - i * block_tokens_;
      if (n_cached > 0) distinct.Add(block, std::min(n_cached, block_tokens_));
      const kv::Planes planes = planes_of(block);
      if (planes.has_kv()) {
        blocks_.push_back({planes.k, planes.v});
      } else {
        SPILLWAY_CHECK_MSG(n_cached >= block_tokens_, "a block that rows are written to has no planes");
        ++n_absent;
      }
    }
    AddRows(segment, first_block, n_absent, planes_of);
  }
  cached_tokens_ = distinct.count();
  AddOutputs(segments);
}

void StepTables::CheckSegment(const Segment& segment, int64_t n_blocks, int32_t vocab_size) const {
  SPILLWAY_CHECK(!segment.tokens.empty() && segment.first_position >= 0);
  SPILLWAY_CHECK(n_rows() + segment.tokens.size() <= static_cast<size_t>(limits_.max_rows));
  const int64_t n_tokens = segment.first_position + static_cast<int64_t>(segment.tokens.size());
  SPILLWAY_CHECK(static_cast<int64_t>(segment.blocks.size()) * block_tokens_ >= n_tokens);
  SPILLWAY_CHECK(static_cast<int64_t>(segment.blocks.size()) <= n_blocks);
  for (const text::TokenId id : segment.tokens) SPILLWAY_CHECK(id >= 0 && id < vocab_size);
}

void StepTables::AddRows(const Segment& segment, int32_t first_block, int32_t n_absent, PlanesOf planes_of) {
  const int32_t n_tokens = static_cast<int32_t>(segment.tokens.size());
  for (int32_t done = 0; done < n_tokens;) {
    if (chunks_.empty() || chunks_.back().n_rows == chunk_rows_) {
      chunks_.push_back({n_rows(), 0, static_cast<int32_t>(sequences_.size()), 0});
    }
    Chunk& chunk = chunks_.back();
    const int32_t n = std::min(n_tokens - done, chunk_rows_ - chunk.n_rows);
    const int32_t position = segment.first_position + done;
    device::AttentionSequence sequence;
    sequence.first_row = chunk.n_rows;
    sequence.n_rows = n;
    sequence.first_position = position;
    sequence.first_block = first_block;
    sequence.n_blocks = (position + n + block_tokens_ - 1) / block_tokens_ - n_absent;
    sequence.key_begin = n_absent * block_tokens_;
    sequence.key_end = position + n;
    sequences_.push_back(sequence);
    // Row i of the n reads position + i + 1 keys.
    reads_tokens_ += int64_t{n} * position + int64_t{n} * (n + 1) / 2;
    for (int32_t i = 0; i < n; ++i) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>((position + i) / block_tokens_)];
      ids_.push_back(segment.tokens[static_cast<size_t>(done + i)]);
      const kv::Planes planes = planes_of(block);
      append_.push_back({planes.k, planes.v, planes.x, (position + i) % block_tokens_, position + i});
    }
    chunk.n_rows += n;
    ++chunk.n_sequences;
    done += n;
  }
}

void StepTables::AddOutputs(absl::Span<const Segment> segments) {
  output_rows_.clear();
  samples_.clear();
  kept_begin_.clear();
  int32_t row = 0;
  for (const Segment& segment : segments) {
    row += static_cast<int32_t>(segment.tokens.size());
    if (segment.output != Output::kSample) continue;
    SPILLWAY_CHECK(samples_.size() < static_cast<size_t>(limits_.max_outputs));
    output_rows_.push_back(row - 1);
    samples_.push_back(segment.sample);
  }
  row = 0;
  int32_t n_kept = 0;
  for (const Segment& segment : segments) {
    const int32_t n = static_cast<int32_t>(segment.tokens.size());
    kept_begin_.push_back(segment.output == Output::kAllLogits ? n_kept : -1);
    if (segment.output == Output::kAllLogits) {
      SPILLWAY_CHECK(n_kept + n <= limits_.max_kept_logits);
      for (int32_t i = 0; i < n; ++i) output_rows_.push_back(row + i);
      n_kept += n;
    }
    row += n;
  }
}

}  // namespace spillway::exec
