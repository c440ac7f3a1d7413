#include "engine/device/cuda/host_ranges.h"

#include <cuda_runtime.h>
#include <sys/resource.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"

namespace spillway::device::cuda {
namespace {

std::string LockedMemoryLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "unknown";
  if (limit.rlim_cur == RLIM_INFINITY) return "unlimited";
  return FormatBytes(static_cast<int64_t>(limit.rlim_cur));
}

}  // namespace

HostRanges::~HostRanges() {
  for (const auto& [address, size] : sizes_) (void)cudaHostUnregister(reinterpret_cast<void*>(address));
}

absl::Status HostRanges::Register(void* data, int64_t size_bytes) {
  SPILLWAY_CHECK(data != nullptr && size_bytes > 0);
  const cudaError_t error = cudaHostRegister(data, static_cast<size_t>(size_bytes),
                                             cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (error == cudaSuccess) {
    sizes_.emplace(reinterpret_cast<uint64_t>(data), size_bytes);
    return absl::OkStatus();
  }
  (void)cudaGetLastError();  // said here; the device is as it was
  return absl::ResourceExhaustedError(absl::StrCat(
      "page-locking ", FormatBytes(size_bytes), " of host memory failed (", cudaGetErrorName(error),
      "); the limit of locked memory (ulimit -l) is ", LockedMemoryLimit(),
      ": raise it and the memory limit (in a container --ulimit memlock=-1), ",
      "or ask for less (--host_pool)"));
}

void HostRanges::Unregister(void* data) {
  const auto found = sizes_.find(reinterpret_cast<uint64_t>(data));
  SPILLWAY_CHECK_MSG(found != sizes_.end(), "unregistered an address that was not registered");
  sizes_.erase(found);
  (void)cudaHostUnregister(data);
}

bool HostRanges::Contains(const void* data, int64_t size_bytes) const {
  const uint64_t address = reinterpret_cast<uint64_t>(data);
  auto after = sizes_.upper_bound(address);
  if (after == sizes_.begin()) return false;
  const auto& [begin, size] = *--after;
  return address + static_cast<uint64_t>(size_bytes) <= begin + static_cast<uint64_t>(size);
}

}  // namespace spillway::device::cuda
