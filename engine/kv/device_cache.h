// DeviceCache: the blocks that lie in device memory. A block that is being written is *open*: its planes are
// here until it is full and stored on the host, K and V and, where X is stored, X. A stored block may stay
// *resident*, as K and V or as X alone: its tokens reach attention without the link. A block that is absent
// may become resident again (*arriving* until all its layers are here): promotion. Resident blocks go as soon
// as an open one needs their slots, or the limits say so: first who was used longest ago.
//
// Work that was enqueued may still read or copy planes: who enqueues it pins the block, and unpins it when
// the work is done. A pinned block keeps its slots; if its content is lost meanwhile, until the last pin
// goes, and until then nothing new can be opened under its id.
//
// Step thread only. Nothing is allocated after Create.
#ifndef SPILLWAY_ENGINE_KV_DEVICE_CACHE_H_
#define SPILLWAY_ENGINE_KV_DEVICE_CACHE_H_

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/kv/block_list.h"
#include "engine/kv/block_store.h"
#include "engine/kv/geometry.h"
#include "engine/kv/slot_allocator.h"

namespace spillway::kv {

// What of a block stays, or comes to stay, on the device.
enum class Residence : uint8_t { kNone, kKv, kX };

// How much may be resident.
struct ResidentLimits {
  int64_t kv_blocks = std::numeric_limits<int64_t>::max();  // as K and V
  int64_t x_blocks = std::numeric_limits<int64_t>::max();   // as X
  int64_t slots = std::numeric_limits<int64_t>::max();      // of both
};

class DeviceCache final : public BlockListener {
 public:
  enum class State : uint8_t { kAbsent, kOpen, kArriving, kResident };

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
  // Neither open nor resident: its tokens are read from elsewhere.
  bool IsElsewhere(BlockId block) const {
    return StateOf(block) == State::kAbsent || StateOf(block) == State::kArriving;
  }
  // All -1 for an absent block.
  const Planes& PlanesOf(BlockId block) const { return Entry(block).planes; }
  // Changes when the block's content is lost: what was copied of it under another number is not its content.
  uint32_t ContentOf(BlockId block) const { return contents_[static_cast<size_t>(block)]; }
  // Its content was lost, and a pin keeps its slots.
  bool IsLingering(BlockId block) const { return Entry(block).lost; }

  // Slots for K and V of an absent block, and for X where `with_x`; evicts resident blocks that nobody pins.
  // False: too few are left.
  bool Open(BlockId block, bool with_x);
  // An open block is full and stored on the host: of its planes those of `keep` stay, if they may, and can be
  // evicted from now on. While it is pinned K and V stay, whatever `keep` says. REQUIRES: it has them.
  void Seal(BlockId block, Residence keep);

  // Slots for an absent block that is about to become resident, whose only pin is the caller's. Evicts only
  // blocks that were not used in the last `stale_uses` calls of StartUse. False: that does not give room.
  bool Reserve(BlockId block, Residence as, uint32_t stale_uses);
  // All layers of an arriving block are here; the pin stays.
  void Arrive(BlockId block);
  // An arriving block does not come after all, nor is it pinned any longer.
  void GiveUp(BlockId block);

  // Blocks beyond the limits go, as far as nobody pins them.
  void SetLimits(const ResidentLimits& limits);
  const ResidentLimits& limits() const { return limits_; }
  // So many slots stay free of resident blocks, whatever is pinned, for blocks to be opened in.
  void SetOpenRoom(int64_t n_slots) { open_room_ = n_slots; }

  // Counts uses: what is touched between two calls is used together.
  void StartUse() { ++use_; }
  // A resident block was used: it is evicted later than those used before.
  void Touch(BlockId block);

  void Pin(BlockId block);
  void Unpin(BlockId block);

  // The content is worthless: its slots go, at once or with the last pin.
  void OnBlockLost(BlockId block) override;

  int32_t n_slots() const { return slots_.n_slots(); }
  int64_t open_room() const { return open_room_; }
  int32_t open_blocks() const { return open_; }
  // Arriving ones included.
  int32_t resident_blocks(Residence as) const { return residents_[IndexOf(as)].blocks; }
  int32_t resident_blocks() const { return resident_blocks(Residence::kKv) + resident_blocks(Residence::kX); }
  int64_t size_bytes() const;

 private:
  struct Block {
    State state = State::kAbsent;
    bool lost = false;  // gone, but pinned
    int32_t pins = 0;
    uint32_t used = 0;  // resident: the use that touched it last
    Planes planes;
  };
  struct Residents {
    explicit Residents(int64_t n_blocks) : by_use(n_blocks) {}
    BlockList by_use;
    int32_t blocks = 0;  // arriving ones included, which are in no list
  };

  DeviceCache(device::Device& device, const Geometry& geometry, int32_t n_slots, int64_t n_blocks,
              device::DevicePtr memory);

  static size_t IndexOf(Residence as) { return as == Residence::kX ? 1 : 0; }
  static Residence ResidenceOf(const Block& entry) {
    return entry.planes.has_kv() ? Residence::kKv : Residence::kX;
  }
  Block& Entry(BlockId block) { return blocks_[static_cast<size_t>(block)]; }
  const Block& Entry(BlockId block) const { return blocks_[static_cast<size_t>(block)]; }
  int32_t XSlots() const { return static_cast<int32_t>(geometry_.x_slots()); }
  int64_t SlotsOf(Residence as) const { return as == Residence::kX ? geometry_.x_slots() : 2; }
  int64_t SlotsOf(const Planes& planes) const {
    return (planes.has_kv() ? 2 : 0) + (planes.has_x() ? geometry_.x_slots() : 0);
  }
  int32_t TakeXSlots();
  bool TakeSlots(Planes* planes, bool with_x);
  void GiveSlots(const Planes& planes);
  // A resident block that nobody pins and that can go, of this residence or of either (kNone): the one used
  // longest ago, if it was used before `before`.
  BlockId FindOldest(Residence as, uint32_t before) const;
  BlockId FindOldestOf(const BlockList& by_use, uint32_t before) const;
  bool EvictOne(Residence as = Residence::kNone);
  bool LeavesOpenRoom(int64_t more_slots) const;
  bool BeyondSlots() const;
  void Trim();
  void Append(BlockId block);
  void Remove(BlockId block);
  void Drop(BlockId block);

  device::Device& device_;
  const Geometry geometry_;
  const device::DevicePtr memory_;  // [n_layers][n_slots]
  SlotAllocator slots_;
  std::vector<Block> blocks_;           // [n_blocks]
  std::vector<uint32_t> contents_;      // [n_blocks], counts losses
  std::array<Residents, 2> residents_;  // as K and V, as X
  int32_t open_ = 0;
  int64_t open_slots_ = 0;
  uint32_t use_ = 1;
  ResidentLimits limits_;
  int64_t open_room_ = 0;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_DEVICE_CACHE_H_
