// LinkMemory: what a LinkExecutor and its work items take of the device beside weights. One count, for the
// executor that allocates it and for whoever has to know before there is one. Plain values, pure functions.
#ifndef SPILLWAY_ENGINE_EXEC_LINK_MEMORY_H_
#define SPILLWAY_ENGINE_EXEC_LINK_MEMORY_H_

#include <cstdint>

#include "absl/types/span.h"
#include "base/bytes.h"
#include "engine/device/types.h"
#include "engine/exec/executor.h"
#include "engine/kv/geometry.h"
#include "engine/model/model_config.h"
#include "engine/model/transformer.h"

namespace spillway::exec {

struct LinkExecutorOptions;

// Allocations are rounded up, and the device cache comes last.
constexpr int64_t kLinkSpareBytes = kMiB;

struct LinkMemory {
  int64_t chunk_bytes = 0;  // of the staging ring: a block's planes at least
  int64_t ring_bytes = 0;
  int64_t rebuilt_bytes = 0;   // K and V of one chunk's X; 0 where X is not stored
  int64_t gathered_bytes = 0;  // X of the device's own blocks, as many as a chunk holds
  model::TransformerLimits limits;
  int64_t open_slots = 0;  // OpenSlotsOf
};
// Slots, in each layer, of a block that is being written.
int64_t OpenSlotsOf(const kv::Geometry& geometry, bool stores_x);
LinkMemory LinkMemoryOf(const LinkExecutorOptions& options, const kv::Geometry& geometry, bool stores_x);

// Blocks that an item may have open at once: a segment's first and last block may each hold one row of its.
int64_t MaxOpenBlocks(const ItemLimits& limits, const kv::Geometry& geometry);
// Slots of the device cache, in each layer, that so many open blocks need: single X slots lie among pairs of
// K and V, so that not every hole fits, hence one in eight to spare.
inline int64_t OpenCacheSlots(int64_t open_blocks, const LinkMemory& memory) {
  return open_blocks * memory.open_slots * 9 / 8;
}

// Buffers of all items.
int64_t WorkItemBytes(const model::ModelConfig& config, absl::Span<const ItemLimits> items,
                      int32_t chunk_rows);

// All of it, with the least device cache that such items work with. `pool_blocks`: there are no more to be
// written; 0: not known.
int64_t LinkBytes(const LinkExecutorOptions& options, const model::ModelConfig& config,
                  device::DType compute_dtype, const kv::Geometry& geometry, bool stores_x,
                  int64_t pool_blocks, absl::Span<const ItemLimits> items);

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_LINK_MEMORY_H_
