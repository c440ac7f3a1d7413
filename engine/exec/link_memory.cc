#include "engine/exec/link_memory.h"

#include <algorithm>

#include "engine/exec/item_buffers.h"
#include "engine/exec/link_executor.h"

namespace spillway::exec {

int64_t OpenSlotsOf(const kv::Geometry& geometry, bool stores_x) {
  return 2 + (stores_x ? geometry.x_slots() : 0);
}

LinkMemory LinkMemoryOf(const LinkExecutorOptions& options, const kv::Geometry& geometry, bool stores_x) {
  const int64_t kv_bytes = 2 * geometry.slot_bytes();
  const int64_t x_bytes = geometry.block_tokens * geometry.chi_bytes();
  LinkMemory memory;
  memory.chunk_bytes = std::max({options.ring_chunk_bytes, kv_bytes, stores_x ? x_bytes : 0});
  memory.ring_bytes = options.ring_chunks * memory.chunk_bytes;
  memory.limits = {options.chunk_rows, options.head_rows, 0};
  memory.open_slots = OpenSlotsOf(geometry, stores_x);
  if (!stores_x) return memory;
  const int64_t rebuilt_blocks = memory.chunk_bytes / x_bytes;
  memory.limits.max_rebuild_rows = static_cast<int32_t>(rebuilt_blocks * geometry.block_tokens);
  memory.rebuilt_bytes = rebuilt_blocks * kv_bytes;
  memory.gathered_bytes = rebuilt_blocks * x_bytes;
  return memory;
}

int64_t MaxOpenBlocks(const ItemLimits& limits, const kv::Geometry& geometry) {
  return limits.max_rows / geometry.block_tokens + 2 * int64_t{limits.max_segments};
}

int64_t WorkItemBytes(const model::ModelConfig& config, absl::Span<const ItemLimits> items,
                      int32_t chunk_rows) {
  int64_t bytes = 0;
  for (const ItemLimits& limits : items) {
    bytes += ItemBuffers::SizeBytes(config, limits, chunk_rows, /*carries=*/true);
  }
  return bytes;
}

int64_t LinkBytes(const LinkExecutorOptions& options, const model::ModelConfig& config,
                  device::DType compute_dtype, const kv::Geometry& geometry, bool stores_x,
                  int64_t pool_blocks, absl::Span<const ItemLimits> items) {
  const LinkMemory memory = LinkMemoryOf(options, geometry, stores_x);
  int64_t open_blocks = 0;
  for (const ItemLimits& limits : items) open_blocks += MaxOpenBlocks(limits, geometry);
  int64_t slots = OpenCacheSlots(open_blocks, memory);
  if (pool_blocks > 0) slots = std::min(slots, pool_blocks * memory.open_slots);
  return memory.ring_bytes + memory.rebuilt_bytes + memory.gathered_bytes +
         model::Transformer::ScratchBytes(config, compute_dtype, memory.limits) +
         WorkItemBytes(config, items, options.chunk_rows) +
         slots * geometry.slot_bytes() * geometry.n_layers + 2 * kLinkSpareBytes;
}

}  // namespace spillway::exec
