#include "engine/kv/host_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "base/numa_node.h"
#include "engine/kv/memory_budget.h"

namespace spillway::kv {
namespace {

constexpr int64_t kArenaAlignmentBytes = 4 * kKiB;
constexpr int64_t kMinBlocks = 2;

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

void CheckGeometry(const Geometry& geometry) {
  SPILLWAY_CHECK(geometry.n_layers > 0 && geometry.d_kv() > 0);
  SPILLWAY_CHECK(geometry.block_tokens >= 16 && geometry.block_tokens <= 128);
  SPILLWAY_CHECK(std::has_single_bit(static_cast<uint32_t>(geometry.block_tokens)));
  SPILLWAY_CHECK(geometry.element_bytes == 2 || geometry.element_bytes == 4);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostPool>> HostPool::Create(device::Device& device, const Geometry& geometry,
                                                           int64_t pool_bytes, bool stores_x,
                                                           int32_t numa_node) {
  CheckGeometry(geometry);
  const int64_t block_bytes = geometry.block_bytes(Form::kKv);
  const int64_t block_slots = geometry.block_slots(Form::kKv);
  // Slot numbers are int32.
  const int64_t n_blocks =
      std::min(pool_bytes / block_bytes, std::numeric_limits<int32_t>::max() / block_slots);
  if (n_blocks < kMinBlocks) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a KV pool of ", FormatBytes(std::max<int64_t>(pool_bytes, 0)), " holds less than ",
                     kMinBlocks, " blocks of ", geometry.block_tokens, " tokens; the least that works is ",
                     FormatExactBytes(kMinBlocks * block_bytes)));
  }
  const int64_t n_slots = n_blocks * block_slots;
  const int64_t arena_bytes = RoundUp(n_slots * geometry.slot_bytes(), kArenaAlignmentBytes);
  const int64_t size_bytes = arena_bytes * geometry.n_layers;
  // The kernel maps more than there is and kills the process at first touch: ask before.
  const MemoryBudget budget = ReadMemoryBudget("/");
  if (budget.known() && size_bytes > budget.available_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a KV pool of ", FormatBytes(size_bytes), " does not fit: ", FormatBytes(budget.available_bytes),
        " of memory are available; the least that works is ", FormatExactBytes(kMinBlocks * block_bytes)));
  }
  void* base = mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mapping a KV pool of ", FormatBytes(size_bytes), " failed: ", std::strerror(errno),
                     "; the least that works is ", kMinBlocks * block_bytes, " bytes"));
  }
  // Advice only: where huge pages are off, small ones serve.
  (void)madvise(base, static_cast<size_t>(size_bytes), MADV_HUGEPAGE);
  if (numa_node >= 0) {
    const absl::Status preferred = PreferNumaNode(static_cast<uint8_t*>(base), size_bytes, numa_node);
    if (!preferred.ok()) {
      Log(LogLevel::kWarning, "the KV pool lies on any NUMA node", {{"cause", preferred.message()}});
    }
  }
  std::unique_ptr<HostPool> pool(
      new HostPool(device, geometry, stores_x, n_slots, arena_bytes, static_cast<uint8_t*>(base)));
  if (device.info().host_addressable) {
    // Nothing is copied over a link, so nothing has to be page-locked: serving can begin at once.
    pool->populator_.emplace(pool->base_, size_bytes);
  } else {
    PopulateInParallel(pool->base_, size_bytes);
  }
  const absl::Status registered = device.RegisterHost(base, size_bytes);
  pool->registered_ = registered.ok();
  if (!registered.ok()) {
    Log(LogLevel::kWarning, "KV pool is not page-locked: copies to the device will be slower",
        {{"pool_bytes", size_bytes}, {"cause", registered.message()}});
  }
  return pool;
}

HostPool::HostPool(device::Device& device, const Geometry& geometry, bool stores_x, int64_t n_slots,
                   int64_t arena_bytes, uint8_t* base)
    : device_(device),
      geometry_(geometry),
      stores_x_(stores_x),
      n_slots_(n_slots),
      arena_bytes_(arena_bytes),
      size_bytes_(arena_bytes * geometry.n_layers),
      base_(base) {}

HostPool::~HostPool() {
  populator_.reset();
  if (registered_) device_.UnregisterHost(base_);
  munmap(base_, static_cast<size_t>(size_bytes_));
}

uint8_t* HostPool::LayerArena(int32_t layer) const {
  SPILLWAY_DCHECK(layer >= 0 && layer < geometry_.n_layers);
  return base_ + layer * arena_bytes_;
}

}  // namespace spillway::kv
