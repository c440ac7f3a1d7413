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
      blocks_(static_cast<size_t>(n_blocks)),
      contents_(static_cast<size_t>(n_blocks)),
      residents_{Residents(n_blocks), Residents(n_blocks)} {}

DeviceCache::~DeviceCache() { device_.Free(memory_); }

device::SlotArena DeviceCache::Arena(int32_t layer) const {
  SPILLWAY_DCHECK(layer >= 0 && layer < geometry_.n_layers);
  return {memory_ + layer * slots_.n_slots() * geometry_.slot_bytes(), geometry_.slot_bytes()};
}

int64_t DeviceCache::size_bytes() const {
  return slots_.n_slots() * geometry_.slot_bytes() * geometry_.n_layers;
}

// Runs of two lie in pairs of slots, so that as many fit as there are free pairs.
int32_t DeviceCache::TakeXSlots() { return slots_.TakeFromEnd(XSlots(), XSlots() == 2 ? 2 : 1); }

bool DeviceCache::TakeSlots(Planes* planes, bool with_x) {
  // A block's K and V lie side by side, so that storing it is one copy.
  planes->k = slots_.Take(2, 2);
  if (planes->k < 0) return false;
  planes->v = planes->k + 1;
  if (!with_x) return true;
  planes->x = TakeXSlots();
  if (planes->x >= 0) return true;
  GiveSlots(*planes);
  *planes = {};
  return false;
}

void DeviceCache::GiveSlots(const Planes& planes) {
  if (planes.has_kv()) slots_.Give(planes.k, 2);
  if (planes.has_x()) slots_.Give(planes.x, XSlots());
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
  open_slots_ += SlotsOf(planes);
  return true;
}

void DeviceCache::Seal(BlockId block, Residence keep) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK(entry.state == State::kOpen);
  // Who pinned it reads its K and V.
  if (entry.pins > 0) keep = Residence::kKv;
  if (keep == Residence::kNone) return Drop(block);
  --open_;
  open_slots_ -= SlotsOf(entry.planes);
  Planes goes = entry.planes;
  if (keep == Residence::kKv) {
    goes.k = goes.v = entry.planes.x = -1;
  } else {
    goes.x = entry.planes.k = entry.planes.v = -1;
  }
  GiveSlots(goes);
  SPILLWAY_CHECK_MSG(entry.planes.has_kv() || entry.planes.has_x(), "a block without what shall stay of it");
  entry.state = State::kResident;
  ++residents_[IndexOf(keep)].blocks;
  Append(block);
  Trim();
}

bool DeviceCache::LeavesOpenRoom(int64_t more_slots) const {
  return 2 * int64_t{slots_.free_pairs()} - more_slots >= open_room_ - open_slots_;
}

bool DeviceCache::BeyondSlots() const {
  return resident_blocks(Residence::kKv) * SlotsOf(Residence::kKv) +
             resident_blocks(Residence::kX) * SlotsOf(Residence::kX) >
         limits_.slots;
}

void DeviceCache::Trim() {
  while (resident_blocks(Residence::kKv) > limits_.kv_blocks && EvictOne(Residence::kKv)) {
  }
  while (resident_blocks(Residence::kX) > limits_.x_blocks && EvictOne(Residence::kX)) {
  }
  while ((BeyondSlots() || !LeavesOpenRoom(0)) && EvictOne()) {
  }
}

void DeviceCache::SetLimits(const ResidentLimits& limits) {
  limits_ = limits;
  Trim();
}

bool DeviceCache::Reserve(BlockId block, Residence as, uint32_t stale_uses) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK(entry.state == State::kAbsent && entry.pins == 0 && as != Residence::kNone);
  const int64_t more = SlotsOf(as);
  const int64_t pairs = (more + 1) / 2;
  const int64_t allowed = as == Residence::kX ? limits_.x_blocks : limits_.kv_blocks;
  if (resident_blocks(as) >= allowed) return false;
  const int64_t resident_slots = resident_blocks(Residence::kKv) * SlotsOf(Residence::kKv) +
                                 resident_blocks(Residence::kX) * SlotsOf(Residence::kX);
  if (resident_slots > limits_.slots - more) return false;
  const uint32_t before = use_ > stale_uses ? use_ - stale_uses : 0;
  const auto evict_stale = [&] {
    const BlockId oldest = FindOldest(Residence::kNone, before);
    if (oldest != kNoBlock) Drop(oldest);
    return oldest != kNoBlock;
  };
  while (!LeavesOpenRoom(2 * pairs)) {
    if (!evict_stale()) return false;
  }
  const int32_t first = as == Residence::kX ? TakeXSlots() : slots_.Take(2, 2);
  if (first < 0) return false;
  entry.planes = as == Residence::kX ? Planes{-1, -1, first} : Planes{first, first + 1, -1};
  entry.state = State::kArriving;
  ++residents_[IndexOf(as)].blocks;
  entry.pins = 1;
  return true;
}

void DeviceCache::Arrive(BlockId block) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK(entry.state == State::kArriving);
  entry.state = State::kResident;
  Append(block);
}

void DeviceCache::GiveUp(BlockId block) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK(entry.state == State::kArriving && entry.pins == 1);
  entry.pins = 0;
  Drop(block);
}

BlockId DeviceCache::FindOldestOf(const BlockList& by_use, uint32_t before) const {
  for (BlockId block = by_use.oldest(); block != kNoBlock; block = by_use.Next(block)) {
    if (Entry(block).used >= before) return kNoBlock;
    if (Entry(block).pins == 0) return block;
  }
  return kNoBlock;
}

BlockId DeviceCache::FindOldest(Residence as, uint32_t before) const {
  if (as != Residence::kNone) return FindOldestOf(residents_[IndexOf(as)].by_use, before);
  const BlockId kv = FindOldestOf(residents_[0].by_use, before);
  const BlockId x = FindOldestOf(residents_[1].by_use, before);
  if (kv == kNoBlock) return x;
  return x == kNoBlock || Entry(kv).used <= Entry(x).used ? kv : x;
}

bool DeviceCache::EvictOne(Residence as) {
  const BlockId block = FindOldest(as, std::numeric_limits<uint32_t>::max());
  if (block == kNoBlock) return false;
  Drop(block);
  return true;
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
  ++contents_[static_cast<size_t>(block)];
  Block& entry = Entry(block);
  if (entry.state == State::kAbsent) return;
  if (entry.pins > 0) {
    entry.lost = true;
  } else {
    Drop(block);
  }
}

void DeviceCache::Append(BlockId block) {
  Block& entry = Entry(block);
  entry.used = use_;
  residents_[IndexOf(ResidenceOf(entry))].by_use.Append(block);
}

void DeviceCache::Remove(BlockId block) {
  residents_[IndexOf(ResidenceOf(Entry(block)))].by_use.Remove(block);
}

void DeviceCache::Drop(BlockId block) {
  Block& entry = Entry(block);
  SPILLWAY_CHECK(entry.pins == 0);
  if (entry.state == State::kResident) Remove(block);
  if (entry.state == State::kOpen) {
    --open_;
    open_slots_ -= SlotsOf(entry.planes);
  } else {
    --residents_[IndexOf(ResidenceOf(entry))].blocks;
  }
  GiveSlots(entry.planes);
  entry = Block{};
}

}  // namespace spillway::kv
