#include "engine/device/cpu/host_memory.h"

#include <sys/mman.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"

namespace spillway::device {

AlignedBytes AllocateAligned(int64_t size_bytes) {
  constexpr int64_t kHugePageBytes = 2 * kMiB;
  const bool huge = size_bytes >= kHugePageBytes;
  const int64_t alignment = huge ? kHugePageBytes : 256;
  const int64_t rounded = (size_bytes + alignment - 1) / alignment * alignment;
  AlignedBytes memory(static_cast<uint8_t*>(std::aligned_alloc(
      static_cast<size_t>(alignment), static_cast<size_t>(rounded == 0 ? alignment : rounded))));
  // A request: a kernel without huge pages serves small ones.
  if (huge && memory != nullptr) (void)madvise(memory.get(), static_cast<size_t>(rounded), MADV_HUGEPAGE);
  return memory;
}

absl::StatusOr<DevicePtr> HostMemory::Allocate(int64_t size_bytes, absl::string_view what) {
  SPILLWAY_CHECK(size_bytes >= 0);
  const int64_t left_bytes = budget_bytes_ - allocated_bytes_;
  if (size_bytes > left_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(what, " needs ", FormatBytes(size_bytes),
                                                     " of device memory, but ", FormatBytes(left_bytes),
                                                     " of ", FormatBytes(budget_bytes_), " are left"));
  }
  AlignedBytes memory = AllocateAligned(size_bytes);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, " needs ", FormatBytes(size_bytes), ", which the machine cannot give"));
  }
  const uint64_t address = reinterpret_cast<uint64_t>(memory.get());
  allocated_bytes_ += size_bytes;
  allocations_.emplace(address, Allocation{std::move(memory), size_bytes});
  return DevicePtr{address};
}

void HostMemory::Free(DevicePtr ptr) {
  if (!ptr) return;
  const auto found = allocations_.find(ptr.address);
  SPILLWAY_CHECK_MSG(found != allocations_.end(), "freed an address that Allocate did not give");
  allocated_bytes_ -= found->second.size_bytes;
  allocations_.erase(found);
}

}  // namespace spillway::device
