#include "engine/device/cuda/device_memory.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "engine/device/cuda/address.h"
#include "engine/device/cuda/cuda_error.h"

namespace spillway::device::cuda {

DeviceMemory::~DeviceMemory() {
  // Of a device that goes while its memory is in use nothing else could be freed either.
  for (const auto& [address, size] : sizes_) (void)cudaFree(At<void>(DevicePtr{address}));
}

absl::StatusOr<DevicePtr> DeviceMemory::Allocate(int64_t size_bytes, absl::string_view what) {
  SPILLWAY_CHECK(size_bytes >= 0);
  const int64_t left_bytes = budget_bytes_ - allocated_bytes_;
  if (size_bytes > left_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(what, " needs ", FormatBytes(size_bytes),
                                                     " of device memory, but ", FormatBytes(left_bytes),
                                                     " of ", FormatBytes(budget_bytes_), " are left"));
  }
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(std::max<int64_t>(size_bytes, 1)));
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // said here; the device is as it was
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    return absl::ResourceExhaustedError(absl::StrCat(
        what, " needs ", FormatBytes(size_bytes), " of device memory, but the GPU has ",
        FormatBytes(static_cast<int64_t>(free_bytes)), " of ", FormatBytes(static_cast<int64_t>(total_bytes)),
        " free in one piece or less; free some (nvidia-smi shows who holds it) or lower --device_memory"));
  }
  if (error != cudaSuccess) return CudaStatus(error, absl::StrCat("allocating ", what));
  const uint64_t address = reinterpret_cast<uint64_t>(memory);
  allocated_bytes_ += size_bytes;
  sizes_.emplace(address, size_bytes);
  return DevicePtr{address};
}

void DeviceMemory::Free(DevicePtr ptr) {
  if (!ptr) return;
  const auto found = sizes_.find(ptr.address);
  SPILLWAY_CHECK_MSG(found != sizes_.end(), "freed an address that Allocate did not give");
  allocated_bytes_ -= found->second;
  sizes_.erase(found);
  // A device in error frees nothing more; the process goes down with it.
  (void)cudaFree(At<void>(ptr));
}

}  // namespace spillway::device::cuda
