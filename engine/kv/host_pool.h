// HostPool: the cache's memory. One arena per layer of equal slots; a block's K plane, V plane and X plane
// take a slot each (X: x_slots()), at the same index in every layer, so that no ratio of forms is frozen. K
// and V planes are [n_kv][block_tokens][d_head], X planes [block_tokens][d], in the device's compute dtype.
// Which slots a block's planes lie in, BlockStore says.
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
  // `stores_x`: blocks may be stored as X, too. Rounds down to what blocks of K and V fill.
  // ResourceExhausted, naming the least size that would work, when less than two of these fit or the memory
  // cannot be had. Where the device cannot register the memory the pool works all the same (copies are
  // slower) and says so in the log. The memory comes from `numa_node` first; -1: from wherever the kernel
  // gives it. `device` must outlive the pool.
  static absl::StatusOr<std::unique_ptr<HostPool>> Create(device::Device& device, const Geometry& geometry,
                                                          int64_t pool_bytes, bool stores_x = false,
                                                          int32_t numa_node = -1);
  ~HostPool();
  HostPool(const HostPool&) = delete;
  HostPool& operator=(const HostPool&) = delete;

  const Geometry& geometry() const { return geometry_; }
  bool stores_x() const { return stores_x_; }
  int64_t size_bytes() const { return size_bytes_; }  // of the mapping: the slots and alignment
  int64_t n_slots() const { return n_slots_; }        // of each layer
  bool registered() const { return registered_; }
  // Every page has been handed out by the kernel.
  bool populated() const { return !populator_.has_value() || populator_->done(); }

  // A layer's arena in host memory.
  uint8_t* LayerArena(int32_t layer) const;
  // The first byte of a slot.
  uint8_t* Slot(int32_t layer, int32_t slot) const {
    return LayerArena(layer) + slot * geometry_.slot_bytes();
  }

 private:
  HostPool(device::Device& device, const Geometry& geometry, bool stores_x, int64_t n_slots,
           int64_t arena_bytes, uint8_t* base);

  device::Device& device_;
  const Geometry geometry_;
  const bool stores_x_;
  const int64_t n_slots_;
  const int64_t arena_bytes_;  // of one layer
  const int64_t size_bytes_;
  uint8_t* const base_;  // [n_layers][arena_bytes_]
  bool registered_ = false;
  std::optional<PagePopulator> populator_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_HOST_POOL_H_
