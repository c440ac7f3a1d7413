// Host memory that is page-locked and mapped, so that copies of it run at full rate and beside the host.
//
// Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_HOST_RANGES_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_HOST_RANGES_H_

#include <cstdint>
#include <map>

#include "absl/status/status.h"

namespace spillway::device::cuda {

class HostRanges {
 public:
  HostRanges() = default;
  ~HostRanges();
  HostRanges(const HostRanges&) = delete;
  HostRanges& operator=(const HostRanges&) = delete;

  // ResourceExhausted where the machine does not lock so much, naming its limit.
  absl::Status Register(void* data, int64_t size_bytes);
  void Unregister(void* data);
  // Whether all of [data, data + size_bytes) is registered.
  bool Contains(const void* data, int64_t size_bytes) const;

 private:
  std::map<uint64_t, int64_t> sizes_;  // by address
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_HOST_RANGES_H_
