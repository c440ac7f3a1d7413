#include "engine/device/cuda/host_ranges.h"

#include <cuda_runtime.h>
#include <sys/resource.h>

#include <algorithm>
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
  for (const auto& [address, size_bytes] : sizes_) UnregisterPieces(address, size_bytes);
}

void HostRanges::UnregisterPieces(uint64_t begin, int64_t size_bytes) const {
  for (int64_t done = 0; done < size_bytes; done += piece_bytes_) {
    (void)cudaHostUnregister(reinterpret_cast<void*>(begin + static_cast<uint64_t>(done)));
  }
}

absl::Status HostRanges::Register(void* data, int64_t size_bytes) {
  SPILLWAY_CHECK(data != nullptr && size_bytes > 0);
  const uint64_t begin = reinterpret_cast<uint64_t>(data);
  cudaError_t error = cudaSuccess;
  int64_t done = 0;
  while (done < size_bytes) {
    const int64_t bytes = std::min(piece_bytes_, size_bytes - done);
    error = cudaHostRegister(static_cast<uint8_t*>(data) + done, static_cast<size_t>(bytes),
                             cudaHostRegisterPortable | cudaHostRegisterMapped);
    if (error != cudaSuccess) break;
    done += bytes;
  }
  if (error == cudaSuccess) {
    sizes_.emplace(begin, size_bytes);
    return absl::OkStatus();
  }
  (void)cudaGetLastError();  // said here; the device is as it was
  UnregisterPieces(begin, done);
  return absl::ResourceExhaustedError(absl::StrCat(
      "page-locking ", FormatBytes(size_bytes), " of host memory failed (", cudaGetErrorName(error),
      "); the limit of locked memory (ulimit -l) is ", LockedMemoryLimit(),
      ": raise it and the memory limit (in a container --ulimit memlock=-1), ",
      "or ask for less (--host_pool)"));
}

void HostRanges::Unregister(void* data) {
  const auto found = sizes_.find(reinterpret_cast<uint64_t>(data));
  SPILLWAY_CHECK_MSG(found != sizes_.end(), "unregistered an address that was not registered");
  UnregisterPieces(found->first, found->second);
  sizes_.erase(found);
}

HostRanges::Range HostRanges::Find(uint64_t address) const {
  auto after = sizes_.upper_bound(address);
  if (after == sizes_.begin()) return sizes_.end();
  --after;
  return address - after->first < static_cast<uint64_t>(after->second) ? after : sizes_.end();
}

bool HostRanges::Contains(const void* data, int64_t size_bytes) const {
  const uint64_t address = reinterpret_cast<uint64_t>(data);
  const Range range = Find(address);
  return range != sizes_.end() &&
         address + static_cast<uint64_t>(size_bytes) <= range->first + static_cast<uint64_t>(range->second);
}

int64_t HostRanges::BytesAtOnce(const void* data, int64_t size_bytes) const {
  const uint64_t address = reinterpret_cast<uint64_t>(data);
  const Range range = Find(address);
  if (range == sizes_.end()) return size_bytes;
  const int64_t offset = static_cast<int64_t>(address - range->first);
  return std::min({size_bytes, piece_bytes_ - offset % piece_bytes_, range->second - offset});
}

}  // namespace spillway::device::cuda
