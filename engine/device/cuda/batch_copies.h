// Many copies between the host and the device as one call: neighbouring runs are merged, and what is left
// goes as a batch, whose copies have no order among themselves.
//
// Thread-compatible. Working memory grows with the largest batch seen and is then kept.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_BATCH_COPIES_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_BATCH_COPIES_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "engine/device/cuda/host_ranges.h"
#include "engine/device/types.h"

namespace spillway::device::cuda {

class BatchCopies {
 public:
  enum class Direction { kIn, kOut };

  // Copies are cut where registrations end that `ranges` (or null) knows of. It must outlive this.
  explicit BatchCopies(const HostRanges* ranges) : ranges_(ranges) {}

  // Batches are for memory at whose own addresses the device reaches it: where `batched` does not say that
  // all of it is so, copies go one by one.
  cudaError_t Enqueue(absl::Span<const CopyRun> runs, bool batched, Direction direction, cudaStream_t stream);

 private:
  void Append(const CopyRun& run, Direction direction);
  int64_t BytesAtOnce(const void* host, int64_t size_bytes) const {
    return ranges_ == nullptr ? size_bytes : ranges_->BytesAtOnce(host, size_bytes);
  }

  const HostRanges* const ranges_;
  std::vector<void*> destinations_;
  std::vector<const void*> sources_;
  std::vector<size_t> sizes_bytes_;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_BATCH_COPIES_H_
