// Host memory that is page-locked and mapped, so that copies of it run at full rate and beside the host.
//
// A long range is registered piece by piece: drivers from 580 on refuse 512 GiB and more at once, as the
// table of its pages would be larger than the kernel allocates. No copy may reach from one registration into
// the next.
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
  explicit HostRanges(int64_t piece_bytes) : piece_bytes_(piece_bytes) {}
  ~HostRanges();
  HostRanges(const HostRanges&) = delete;
  HostRanges& operator=(const HostRanges&) = delete;

  // ResourceExhausted where the machine does not lock so much, naming its limit.
  absl::Status Register(void* data, int64_t size_bytes);
  void Unregister(void* data);
  // Whether all of [data, data + size_bytes) is registered.
  bool Contains(const void* data, int64_t size_bytes) const;
  // How much of [data, data + size_bytes) one copy may take: up to where the next registration begins.
  int64_t BytesAtOnce(const void* data, int64_t size_bytes) const;

 private:
  using Range = std::map<uint64_t, int64_t>::const_iterator;
  // The range that `address` lies in; the end if in none.
  Range Find(uint64_t address) const;
  // The pieces of the range's first `size_bytes`.
  void UnregisterPieces(uint64_t begin, int64_t size_bytes) const;

  const int64_t piece_bytes_;
  std::map<uint64_t, int64_t> sizes_;  // by address
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_HOST_RANGES_H_
