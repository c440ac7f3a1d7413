// HostPool: the cache's memory. One arena per layer of equal slots; a block's K plane, V plane and X plane
// take a slot each (X: x_slots()), at the same index in every layer, so that no ratio of forms is frozen. K
// and V planes are [n_kv][block_tokens][d_head], X planes [block_tokens][d], in the device's compute dtype.
//
// Allocated once: mapped, advised to huge pages, touched in parallel, registered with the device. Shared by
// all executors and requests. Immutable after creation (the bytes belong to who holds the blocks).
#ifndef SPILLWAY_ENGINE_KV_HOST_POOL_H_
#define SPILLWAY_ENGINE_KV_HOST_POOL_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/kv/geometry.h"
#include "engine/kv/page_populator.h"

namespace spillway::kv {

class HostPool {
 public:
  // Rounds down to whole blocks of `form`, which every block is stored in. ResourceExhausted, naming the
  // least size that would work, when less than two blocks fit or the memory cannot be had. Where the device
  // cannot register the memory the pool works all the same (copies are slower) and says so in the log.
  // `device` must outlive the pool.
  static absl::StatusOr<std::unique_ptr<HostPool>> Create(device::Device& device, const Geometry& geometry,
                                                          int64_t pool_bytes, Form form = Form::kKv);
  ~HostPool();
  HostPool(const HostPool&) = delete;
  HostPool& operator=(const HostPool&) = delete;

  const Geometry& geometry() const { return geometry_; }
  Form form() const { return form_; }
  int64_t size_bytes() const { return size_bytes_; }  // of the mapping: the blocks and alignment
  int64_t n_blocks() const { return n_blocks_; }
  bool registered() const { return registered_; }
  // Every page has been handed out by the kernel.
  bool populated() const { return !populator_.has_value() || populator_->done(); }

  // A layer's arena in host memory, and the slots of a block's planes in every layer's arena.
  uint8_t* LayerArena(int32_t layer) const;
  static constexpr int32_t KSlot(BlockId block) { return 2 * block; }
  static constexpr int32_t VSlot(BlockId block) { return 2 * block + 1; }
  // K and V of all blocks come first, so that neighbouring blocks are one run; X planes follow.
  Planes PlanesOf(BlockId block) const;

  // Host addresses of a block's planes in a layer.
  uint8_t* KPlane(int32_t layer, BlockId block) const;
  uint8_t* VPlane(int32_t layer, BlockId block) const;
  // The first byte of a slot.
  uint8_t* Slot(int32_t layer, int32_t slot) const {
    return LayerArena(layer) + slot * geometry_.slot_bytes();
  }

 private:
  HostPool(device::Device& device, const Geometry& geometry, Form form, int64_t n_blocks, int64_t arena_bytes,
           uint8_t* base);

  device::Device& device_;
  const Geometry geometry_;
  const Form form_;
  const int64_t n_blocks_;
  const int64_t arena_bytes_;  // of one layer
  const int64_t size_bytes_;
  uint8_t* const base_;  // [n_layers][arena_bytes_]
  bool registered_ = false;
  std::optional<PagePopulator> populator_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_HOST_POOL_H_
