// Device memory of a CPU: host memory under a budget, aligned to 256 bytes and, from 2 MiB on, to huge pages
// (streaming weights from 4 KiB pages loses half of the read bandwidth to address translation).
// Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_HOST_MEMORY_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_HOST_MEMORY_H_

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/device/types.h"

namespace spillway::device {

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using AlignedBytes = std::unique_ptr<uint8_t, FreeDeleter>;

// Null if the machine has no more. The contents are undefined.
AlignedBytes AllocateAligned(int64_t size_bytes);

class HostMemory {
 public:
  explicit HostMemory(int64_t budget_bytes) : budget_bytes_(budget_bytes) {}

  absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what);
  // `ptr` came from Allocate or is null.
  void Free(DevicePtr ptr);
  int64_t allocated_bytes() const { return allocated_bytes_; }

 private:
  struct Allocation {
    AlignedBytes memory;
    int64_t size_bytes;
  };

  const int64_t budget_bytes_;
  int64_t allocated_bytes_ = 0;
  absl::flat_hash_map<uint64_t, Allocation> allocations_;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_HOST_MEMORY_H_
