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
#include "engine/device/types.h"

namespace spillway::device::cuda {

class BatchCopies {
 public:
  enum class Direction { kIn, kOut };

  // Batches are for page-locked memory: where `page_locked` does not say that all of it is, copies go one by
  // one.
  cudaError_t Enqueue(absl::Span<const CopyRun> runs, bool page_locked, Direction direction,
                      cudaStream_t stream);

 private:
  void Append(const CopyRun& run, Direction direction);

  std::vector<void*> destinations_;
  std::vector<const void*> sources_;
  std::vector<size_t> sizes_bytes_;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_BATCH_COPIES_H_
