// DeviceCache: the blocks that lie in device memory. A block that is being written is *open*: its planes are
// here until it is full and stored on the host, K and V and, where X is stored, X. A stored block may stay
// *resident*: its tokens reach attention without the link. A resident block goes as soon as an open one needs
// its slots: first who was used longest ago.
//
// Work that was enqueued may still read or copy planes: who enqueues it pins the block, and unpins it when
// the work is done. A pinned block keeps its slots; if its content is lost meanwhile, until the last pin
// goes, and until then nothing new can be opened under its id.
//
// Step thread only. Nothing is allocated after Create.
#ifndef SPILLWAY_ENGINE_KV_DEVICE_CACHE_H_
#define SPILLWAY_ENGINE_KV_DEVICE_CACHE_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/kv/block_store.h"
#include "engine/kv/geometry.h"
#include "engine/kv/slot_allocator.h"

namespace spillway::kv {

class DeviceCache final : public BlockListener {
 public:
  enum class State : uint8_t { kAbsent, kOpen, kResident };

  // Room for `n_slots` slots a layer, of `n_blocks` blocks that the store knows. ResourceExhausted where the
  // device has less memory. `device` must outlive the cache.
  static absl::StatusOr<std::unique_ptr<DeviceCache>> Create(device::Device& device, const Geometry& geometry,
                                                             int32_t n_slots, int64_t n_blocks);
  ~DeviceCache() override;
  DeviceCache(const DeviceCache&) = delete;
  DeviceCache& operator=(const DeviceCache&) = delete;

  // A layer's slots; planes name the same slots in every layer.
  device::SlotArena Arena(int32_t layer) const;

  State StateOf(BlockId block) const { return Entry(block).state; }
  // All -1 for an absent block.
  const Planes& PlanesOf(BlockId block) const { return Entry(block).planes; }
  // Its content was lost, and a pin keeps its slots.
  bool IsLingering(BlockId block) const { return Entry(block).lost; }

  // Slots for K and V of an absent block, and for X where `with_x`; evicts resident blocks that nobody pins.
  // False: too few are left.
  bool Open(BlockId block, bool with_x);
  // An open block is full and stored on the host: its X plane goes, and it may be evicted from now on.
  void Seal(BlockId block);
  // Blocks beyond so many do not stay resident, from the next Seal on: what a block that is sealed needs
  // beyond it, other blocks give up, or it does not stay itself. Room for open blocks is kept by it.
  void SetResidentMax(int64_t n_blocks) { resident_max_ = n_blocks; }
  // A resident block was used: it is evicted later than those used before.
  void Touch(BlockId block);

  void Pin(BlockId block);
  void Unpin(BlockId block);

  // The content is worthless: its slots go, at once or with the last pin.
  void OnBlockLost(BlockId block) override;

  int32_t n_slots() const { return slots_.n_slots(); }
  int32_t open_blocks() const { return open_; }
  int32_t resident_blocks() const { return resident_; }
  int64_t size_bytes() const;

 private:
  struct Block {
    State state = State::kAbsent;
    bool lost = false;  // gone, but pinned
    int32_t pins = 0;
    Planes planes;
    // Neighbours in the list of resident blocks, the one used longest ago first; the entry after the last
    // block is the list's head.
    BlockId older = kNoBlock;
    BlockId newer = kNoBlock;
  };

  DeviceCache(device::Device& device, const Geometry& geometry, int32_t n_slots, int64_t n_blocks,
              device::DevicePtr memory);

  Block& Entry(BlockId block) { return blocks_[static_cast<size_t>(block)]; }
  const Block& Entry(BlockId block) const { return blocks_[static_cast<size_t>(block)]; }
  bool TakeSlots(Planes* planes, bool with_x);
  void GiveSlots(const Planes& planes);
  bool EvictOne();
  void Append(BlockId block);
  void Remove(BlockId block);
  void Drop(BlockId block);

  device::Device& device_;
  const Geometry geometry_;
  const device::DevicePtr memory_;  // [n_layers][n_slots]
  SlotAllocator slots_;
  std::vector<Block> blocks_;  // [n_blocks + 1]
  const BlockId list_head_;
  int32_t open_ = 0;
  int32_t resident_ = 0;
  int64_t resident_max_ = std::numeric_limits<int64_t>::max();
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_DEVICE_CACHE_H_
