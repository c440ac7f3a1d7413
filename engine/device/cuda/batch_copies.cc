#include "engine/device/cuda/batch_copies.h"

#include "engine/device/cuda/address.h"

namespace spillway::device::cuda {

void BatchCopies::Append(const CopyRun& run, Direction direction) {
  void* const device = At<void>(run.device);
  void* const destination = direction == Direction::kIn ? device : run.host;
  const void* const source = direction == Direction::kIn ? run.host : device;
  const size_t size_bytes = static_cast<size_t>(run.size_bytes);
  if (!sizes_bytes_.empty()) {
    const size_t before_bytes = sizes_bytes_.back();
    const void* const host = direction == Direction::kIn ? sources_.back() : destinations_.back();
    const int64_t together_bytes = static_cast<int64_t>(before_bytes + size_bytes);
    if (static_cast<uint8_t*>(destinations_.back()) + before_bytes == destination &&
        static_cast<const uint8_t*>(sources_.back()) + before_bytes == source &&
        BytesAtOnce(host, together_bytes) == together_bytes) {
      sizes_bytes_.back() += size_bytes;
      return;
    }
  }
  destinations_.push_back(destination);
  sources_.push_back(source);
  sizes_bytes_.push_back(size_bytes);
}

cudaError_t BatchCopies::Enqueue(absl::Span<const CopyRun> runs, bool batched, Direction direction,
                                 cudaStream_t stream) {
  destinations_.clear();
  sources_.clear();
  sizes_bytes_.clear();
  for (const CopyRun& run : runs) {
    uint8_t* const host = static_cast<uint8_t*>(run.host);
    for (int64_t done = 0; done < run.size_bytes;) {
      const int64_t bytes = BytesAtOnce(host + done, run.size_bytes - done);
      Append({run.device + done, host + done, bytes}, direction);
      done += bytes;
    }
  }
  const size_t count = sizes_bytes_.size();
  if (count <= 1 || !batched) {
    const cudaMemcpyKind kind = direction == Direction::kIn ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
    for (size_t i = 0; i < count; ++i) {
      const cudaError_t error = cudaMemcpyAsync(destinations_[i], sources_[i], sizes_bytes_[i], kind, stream);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }
  cudaMemcpyAttributes attributes{};
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  size_t first_of_attributes = 0;
  return cudaMemcpyBatchAsync(destinations_.data(), sources_.data(), sizes_bytes_.data(), count, &attributes,
                              &first_of_attributes, 1, stream);
}

}  // namespace spillway::device::cuda
