// Device memory under a budget, from cudaMalloc: taken at start and kept, never in the step loop.
//
// Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_DEVICE_MEMORY_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_DEVICE_MEMORY_H_

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/device/types.h"

namespace spillway::device::cuda {

class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t budget_bytes) : budget_bytes_(budget_bytes) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Aligned to 256 bytes. ResourceExhausted says what is left of the budget, or of the GPU.
  absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what);
  // `ptr` came from Allocate or is null.
  void Free(DevicePtr ptr);
  int64_t allocated_bytes() const { return allocated_bytes_; }

 private:
  const int64_t budget_bytes_;
  int64_t allocated_bytes_ = 0;
  absl::flat_hash_map<uint64_t, int64_t> sizes_;  // by address
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_DEVICE_MEMORY_H_
