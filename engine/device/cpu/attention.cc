#include "engine/device/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "engine/device/cpu/address.h"

namespace spillway::device {
namespace {

// A decode step's few rows: K and V are read for them alone, so their keys are split between threads.
constexpr int64_t kNarrowTile = 16;
constexpr int64_t kMaxChunks = 8;
constexpr int64_t kMinChunkKeys = 256;
// Fewer tasks than this for each thread are cut by keys.
constexpr int64_t kTasksPerThread = 4;
// Below this many key rows in all, entering a parallel region costs more than it saves.
constexpr int64_t kSerialKeyRows = 48;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Parts of a thread's working memory, in floats; T takes at most as much.
constexpr int64_t kTileFloats = kQueryTile * kMaxHeadDim;
constexpr int64_t kPanelFloats = kKeyTile * kMaxHeadDim;
constexpr int64_t kScoreFloats = kQueryTile * kKeyTile;
constexpr int64_t kScratchFloats =
    2 * (kTileFloats + 2 * kQueryTile) + kTileFloats + 2 * kPanelFloats + 2 * kScoreFloats;
constexpr int64_t kPartFloats = kNarrowTile * (kMaxHeadDim + 2);

bool IsNarrow(const AttentionSequence& sequence, int64_t group) {
  return sequence.n_rows == 1 || sequence.n_rows * group <= kNarrowTile;
}

int64_t TileRows(const AttentionSequence& sequence, int64_t group) {
  return IsNarrow(sequence, group) ? kNarrowTile : kQueryTile;
}

int64_t TilesOf(const AttentionSequence& sequence, int64_t group) {
  const int64_t rows = TileRows(sequence, group);
  return (sequence.n_rows * group + rows - 1) / rows;
}

}  // namespace

// Finds tasks by index, in time proportional to the sequences passed since the last, lower index.
class CpuAttention::TaskCursor {
 public:
  TaskCursor(const AttentionSequence* sequences, int64_t n_kv_heads, int64_t group)
      : sequence_(sequences), n_kv_heads_(n_kv_heads), group_(group) {}

  Task At(int64_t index) {
    int64_t tiles = TilesOf(*sequence_, group_);
    while (index >= first_task_ + tiles * n_kv_heads_) {
      first_task_ += tiles * n_kv_heads_;
      tiles = TilesOf(*++sequence_, group_);
    }
    const int64_t within = index - first_task_;
    const int64_t tile_rows = TileRows(*sequence_, group_);
    Task task;
    task.sequence = sequence_;
    task.kv_head = within / tiles;
    task.first_query = within % tiles * tile_rows;
    task.n_queries = std::min(tile_rows, sequence_->n_rows * group_ - task.first_query);
    const int64_t keys = std::max(sequence_->key_end - sequence_->key_begin, 1);
    task.chunks = 1;
    if (IsNarrow(*sequence_, group_)) task.chunks = std::clamp(keys / kMinChunkKeys, int64_t{1}, kMaxChunks);
    task.chunk_keys = RoundUp((keys + task.chunks - 1) / task.chunks, kKeyTile);
    return task;
  }

 private:
  const AttentionSequence* sequence_;
  const int64_t n_kv_heads_;
  const int64_t group_;
  int64_t first_task_ = 0;
};

CpuAttention::CpuAttention(const Kernels& kernels, DType type, ThreadTeam& team)
    : kernels_(kernels),
      type_(type),
      team_(team),
      chunks_done_(static_cast<size_t>(kTasksPerThread * team.threads())) {
  for (int32_t thread = 0; thread < team.threads(); ++thread) {
    scratch_.push_back(AllocateAligned(kScratchFloats * int64_t{sizeof(float)}));
    SPILLWAY_CHECK(scratch_.back() != nullptr);
  }
  parts_ =
      AllocateAligned(kTasksPerThread * team.threads() * kMaxChunks * kPartFloats * int64_t{sizeof(float)});
  SPILLWAY_CHECK(parts_ != nullptr);
}

CpuAttention::TileResult CpuAttention::ThreadResult(int32_t thread, bool later_chunk) const {
  float* base = reinterpret_cast<float*>(scratch_[static_cast<size_t>(thread)].get());
  if (later_chunk) base += kTileFloats + 2 * kQueryTile;
  return {base + 2 * kQueryTile, base, base + kQueryTile};
}

CpuAttention::TileResult CpuAttention::PartResult(int64_t part) const {
  float* base = reinterpret_cast<float*>(parts_.get()) + part * kPartFloats;
  return {base + 2 * kNarrowTile, base, base + kNarrowTile};
}

void CpuAttention::Attend(const PartialAttentionArgs& args, const Task& task, int64_t chunk,
                          const TileResult& result, int32_t thread) {
  const AttentionSequence& sequence = *task.sequence;
  const int64_t group = args.n_heads / args.n_kv_heads;
  const int64_t element_bytes = SizeOf(type_);
  const int64_t d16 = RoundUp(args.d_head, 16);

  AttentionTile tile;
  tile.q = At<const uint8_t>(args.q) +
           (int64_t{sequence.first_row} * args.q_stride + task.kv_head * group * args.d_head) * element_bytes;
  tile.q_stride = args.q_stride;
  tile.group = group;
  tile.first_query = task.first_query;
  tile.n_queries = task.n_queries;
  tile.first_position = sequence.first_position;
  tile.d_head = args.d_head;
  tile.scale = args.scale;
  tile.blocks = At<const AttentionBlock>(args.blocks) + sequence.first_block;
  tile.arena =
      At<const uint8_t>(args.arena.base) + task.kv_head * args.block_tokens * args.d_head * element_bytes;
  tile.slot_bytes = args.arena.slot_bytes;
  tile.block_tokens = args.block_tokens;
  tile.table_position = sequence.key_begin;
  tile.key_begin = sequence.key_begin + chunk * task.chunk_keys;
  tile.key_end = std::min<int64_t>(tile.key_begin + task.chunk_keys, sequence.key_end);
  tile.fetch_end = sequence.key_end;

  AttentionBuffers buffers;
  buffers.acc = result.acc;
  buffers.max = result.max;
  buffers.sum = result.sum;
  float* working = reinterpret_cast<float*>(scratch_[static_cast<size_t>(thread)].get()) +
                   2 * (kTileFloats + 2 * kQueryTile);
  buffers.queries = working;
  buffers.scores = working += kQueryTile * d16;
  buffers.weights = working += kScoreFloats;
  buffers.k_panel = working += kScoreFloats;
  buffers.v_panel = working += kKeyTile * d16;
  kernels_.attend(tile, buffers);
}

void CpuAttention::MergeInto(const TileResult& into, const TileResult& part, int64_t rows,
                             int64_t d16) const {
  for (int64_t i = 0; i < rows; ++i) {
    if (part.max[i] == -kInfinity) continue;
    const float max = std::max(into.max[i], part.max[i]);
    const float a = std::exp(into.max[i] - max);
    const float b = std::exp(part.max[i] - max);
    kernels_.blend(into.acc + i * d16, a, part.acc + i * d16, b, d16);
    into.sum[i] = into.sum[i] * a + part.sum[i] * b;
    into.max[i] = max;
  }
}

void CpuAttention::Deliver(const PartialAttentionArgs& args, const Task& task,
                           const TileResult& result) const {
  const int64_t group = args.n_heads / args.n_kv_heads;
  const int64_t d16 = RoundUp(args.d_head, 16);
  for (int64_t i = 0; i < task.n_queries; ++i) {
    const int64_t query = task.first_query + i;
    const int64_t row = task.sequence->first_row + query / group;
    const int64_t at = row * args.n_heads + task.kv_head * group + query % group;
    float& max = At<float>(args.max)[at];
    float& sum = At<float>(args.sum)[at];
    float* acc = At<float>(args.acc) + at * args.d_head;
    if (args.accumulate && max != -kInfinity) {
      if (result.max[i] == -kInfinity) continue;
      const float top = std::max(max, result.max[i]);
      const float keep = std::exp(max - top);
      const float add = std::exp(result.max[i] - top);
      kernels_.blend(acc, keep, result.acc + i * d16, add, args.d_head);
      sum = sum * keep + result.sum[i] * add;
      max = top;
    } else {
      max = result.max[i];
      sum = result.sum[i];
      std::copy_n(result.acc + i * d16, args.d_head, acc);
    }
  }
}

// Enough tasks for all threads: each is done by one, chunk after chunk.
void CpuAttention::RunTasks(const PartialAttentionArgs& args, int64_t tasks) {
  const AttentionSequence* sequences = At<const AttentionSequence>(args.sequences);
  int64_t key_rows = 0;
  for (int32_t s = 0; s < args.n_sequences && key_rows < kSerialKeyRows; ++s) {
    key_rows += int64_t{sequences[s].key_end - sequences[s].key_begin} * sequences[s].n_rows;
  }
  team_.Tasks(key_rows >= kSerialKeyRows, tasks, [&](const auto& take, int32_t thread) {
    TaskCursor cursor(sequences, args.n_kv_heads, args.n_heads / args.n_kv_heads);
    for (int64_t i = take(); i < tasks; i = take()) {
      const Task task = cursor.At(i);
      const TileResult result = ThreadResult(thread, false);
      Attend(args, task, 0, result, thread);
      for (int64_t chunk = 1; chunk < task.chunks; ++chunk) {
        const TileResult part = ThreadResult(thread, true);
        Attend(args, task, chunk, part, thread);
        MergeInto(result, part, task.n_queries, RoundUp(args.d_head, 16));
      }
      Deliver(args, task, result);
    }
  });
}

// Few tasks: threads share one task's chunks, and who finishes its last merges them in order.
void CpuAttention::RunChunks(const PartialAttentionArgs& args, int64_t tasks) {
  for (int64_t i = 0; i < tasks; ++i)
    chunks_done_[static_cast<size_t>(i)].store(0, std::memory_order_relaxed);
  const int64_t units = tasks * kMaxChunks;
  team_.Tasks(true, units, [&](const auto& take, int32_t thread) {
    TaskCursor cursor(At<const AttentionSequence>(args.sequences), args.n_kv_heads,
                      args.n_heads / args.n_kv_heads);
    for (int64_t unit = take(); unit < units; unit = take()) {
      const int64_t index = unit / kMaxChunks;
      const int64_t chunk = unit % kMaxChunks;
      const Task task = cursor.At(index);
      if (chunk >= task.chunks) continue;
      const TileResult result = task.chunks == 1 ? ThreadResult(thread, false) : PartResult(unit);
      Attend(args, task, chunk, result, thread);
      if (task.chunks == 1) {
        Deliver(args, task, result);
      } else if (chunks_done_[static_cast<size_t>(index)].fetch_add(1, std::memory_order_acq_rel) + 1 ==
                 task.chunks) {
        const TileResult first = PartResult(index * kMaxChunks);
        for (int64_t part = 1; part < task.chunks; ++part) {
          MergeInto(first, PartResult(index * kMaxChunks + part), task.n_queries, RoundUp(args.d_head, 16));
        }
        Deliver(args, task, first);
      }
    }
  });
}

void CpuAttention::Partial(const PartialAttentionArgs& args) {
  SPILLWAY_CHECK(args.n_kv_heads > 0 && args.n_heads % args.n_kv_heads == 0 && args.block_tokens > 0);
  SPILLWAY_CHECK_MSG(args.d_head > 0 && args.d_head <= kMaxHeadDim, "heads of this size are not supported");
  const AttentionSequence* sequences = At<const AttentionSequence>(args.sequences);
  int64_t tiles = 0;
  bool chunked = false;
  for (int32_t s = 0; s < args.n_sequences; ++s) {
    tiles += TilesOf(sequences[s], args.n_heads / args.n_kv_heads);
    chunked |= sequences[s].key_end - sequences[s].key_begin >= 2 * kMinChunkKeys;
  }
  const int64_t tasks = tiles * args.n_kv_heads;
  if (chunked && team_.threads() > 1 && tasks < kTasksPerThread * team_.threads()) {
    RunChunks(args, tasks);
  } else {
    RunTasks(args, tasks);
  }
}

void CpuAttention::Merge(const MergeAttentionArgs& args) {
  SPILLWAY_CHECK(args.n_parts >= 1 && args.d_head > 0 && args.d_head <= kMaxHeadDim);
  const int64_t items = int64_t{args.rows} * args.n_heads;
  const int64_t part_stride = args.part_stride_rows * args.n_heads;
  const float* max = At<const float>(args.max);
  const float* sum = At<const float>(args.sum);
  const float* acc = At<const float>(args.acc);
  constexpr int64_t kSerialFloats = 16384;
  const bool parallel = items * args.d_head * args.n_parts >= kSerialFloats;
  team_.Ranges(parallel, items, [&](int64_t begin, int64_t end, int32_t thread) {
    float* merged = ThreadResult(thread, false).acc;
    for (int64_t at = begin; at < end; ++at) {
      const float* source = acc + at * args.d_head;
      float total = sum[at];
      if (args.n_parts > 1) {
        float top = -kInfinity;
        for (int64_t part = 0; part < args.n_parts; ++part) top = std::max(top, max[at + part * part_stride]);
        std::fill_n(merged, args.d_head, 0.0F);
        total = 0;
        for (int64_t part = 0; part < args.n_parts; ++part) {
          const int64_t there = at + part * part_stride;
          if (max[there] == -kInfinity) continue;
          const float weight = std::exp(max[there] - top);
          total += sum[there] * weight;
          kernels_.blend(merged, 1.0F, acc + there * args.d_head, weight, args.d_head);
        }
        source = merged;
      }
      uint8_t* out = At<uint8_t>(args.out) + at * args.d_head * SizeOf(type_);
      // A row that read no key has acc = 0 and sum = 0.
      kernels_.scale_to(source, total == 0 ? 0.0F : 1.0F / total, args.d_head, out);
    }
  });
}

}  // namespace spillway::device
