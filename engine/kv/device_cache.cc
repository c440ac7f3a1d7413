#include "engine/kv/device_cache.h"

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::kv {

absl::StatusOr<std::unique_ptr<DeviceCache>> DeviceCache::Create(device::Device& device,
                                                                 const Geometry& geometry, int32_t n_slots,
                                                                 int64_t n_blocks) {
  SPILLWAY_CHECK(n_slots > 0 && n_blocks > 0);
  const int64_t size_bytes = n_slots * geometry.slot_bytes() * geometry.n_layers;
  SPILLWAY_ASSIGN_OR_RETURN(const device::DevicePtr memory, device.Allocate(size_bytes, "device cache"));
  return std::unique_ptr<DeviceCache>(new DeviceCache(device, geometry, n_slots, n_blocks, memory));
}

DeviceCache::DeviceCache(device::Device& device, const Geometry& geometry, int32_t n_slots, int64_t n_blocks,
                         device::DevicePtr memory)
    : device_(device),
      geometry_(geometry),
      memory_(memory),
      slots_(n_slots),
      blocks_(static_cast<size_t>(n_blocks + 1)),
      list_head_(static_cast<BlockId>(n_blocks)) {
  Entry(list_head_).older = Entry(list_head_).newer = list_head_;
}

DeviceCache::~DeviceCache() { device_.Free(memory_); }

device::SlotArena DeviceCache::Arena(int32_t layer) const {
  SPILLWAY_DCHECK(layer >= 0 && layer < geometry_.n_layers);
  return {memory_ + layer * slots_.n_slots() * geometry_.slot_bytes(), geometry_.slot_bytes()};
}

int64_t DeviceCache::size_bytes() const {
  return slots_.n_slots() * geometry_.slot_bytes() * geometry_.n_layers;
}

bool DeviceCache::TakeSlots(Planes* planes, bool with_x) {
  // A block's K and V lie side by side, so that storing it is one copy.
  planes->k = slots_.Take(2);
  if (planes->k < 0) return false;
  planes->v = planes->k + 1;
  if (!with_x) return true;
  planes->x = slots_.TakeFromEnd(static_cast<int32_t>(geometry_.x_slots()));
  if (planes->x >= 0) return true;
  GiveSlots(*planes);
  *planes = {};
  return false;
}

void DeviceCache::GiveSlots(const Planes& planes) {
  if (planes.has_kv()) slots_.Give(planes.k, 2);
  if (planes.has_x()) slots_.Give(planes.x, static_cast<int32_t>(geometry_.x_slots()));
}

bool DeviceCache::Open(BlockId block, bool with_x) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK_MSG(entry.state == State::kAbsent && entry.pins == 0, "the block is on the device already");
  Planes planes;
  while (!TakeSlots(&planes, with_x)) {
    if (!EvictOne()) return false;
  }
  entry.planes = planes;
  entry.state = State::kOpen;
  ++open_;
  return true;
}

bool DeviceCache::EvictOne() {
  for (BlockId block = Entry(list_head_).newer; block != list_head_; block = Entry(block).newer) {
    if (Entry(block).pins > 0) continue;
    Drop(block);
    return true;
  }
  return false;
}

void DeviceCache::Seal(BlockId block) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK(entry.state == State::kOpen);
  if (entry.planes.has_x()) slots_.Give(entry.planes.x, static_cast<int32_t>(geometry_.x_slots()));
  entry.planes.x = -1;
  entry.state = State::kResident;
  --open_;
  ++resident_;
  Append(block);
  while (resident_ > resident_max_ && EvictOne()) {
  }
}

void DeviceCache::Touch(BlockId block) {
  SPILLWAY_CHECK(Entry(block).state == State::kResident);
  Remove(block);
  Append(block);
}

void DeviceCache::Pin(BlockId block) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK_MSG(entry.state != State::kAbsent && !entry.lost, "pinning a block that is not there");
  ++entry.pins;
}

void DeviceCache::Unpin(BlockId block) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK_MSG(entry.pins > 0, "the block is not pinned");
  if (--entry.pins == 0 && entry.lost) Drop(block);
}

void DeviceCache::OnBlockLost(BlockId block) {
  Block& entry = Entry(block);
  if (entry.state == State::kAbsent) return;
  if (entry.pins > 0) {
    entry.lost = true;
  } else {
    Drop(block);
  }
}

void DeviceCache::Append(BlockId block) {
  const BlockId newest = Entry(list_head_).older;
  Entry(block).older = newest;
  Entry(block).newer = list_head_;
  Entry(newest).newer = block;
  Entry(list_head_).older = block;
}

void DeviceCache::Remove(BlockId block) {
  Entry(Entry(block).older).newer = Entry(block).newer;
  Entry(Entry(block).newer).older = Entry(block).older;
}

void DeviceCache::Drop(BlockId block) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK(entry.pins == 0);
  if (entry.state == State::kResident) {
    Remove(block);
    --resident_;
  } else {
    --open_;
  }
  GiveSlots(entry.planes);
  entry = Block{};
}

}  // namespace spillway::kv
