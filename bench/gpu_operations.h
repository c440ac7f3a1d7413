// GpuOperations: a device's copies, products and attention by themselves, by its own events: what it can do
// at best, and what of that the engine's operations get.
//
// Everything is timed in groups of calls that lie behind other work in their stream, so that the device never
// waits for the host. Memory is taken and given back by each measurement. Thread-compatible; the device must
// outlive it.
#ifndef SPILLWAY_BENCH_GPU_OPERATIONS_H_
#define SPILLWAY_BENCH_GPU_OPERATIONS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "bench/gpu_shape.h"
#include "engine/device/device.h"
#include "profiler/device_timer.h"

namespace spillway::bench {

class GpuOperations {
 public:
  // ResourceExhausted where there is no memory for what is copied ahead.
  static absl::StatusOr<std::unique_ptr<GpuOperations>> Create(device::Device& device, const GpuShape& shape);
  ~GpuOperations();
  GpuOperations(const GpuOperations&) = delete;
  GpuOperations& operator=(const GpuOperations&) = delete;

  // --- What the device can do. Errors: ResourceExhausted without memory, or the device's.
  // Bytes read and bytes written a second by a large copy within device memory.
  absl::StatusOr<double> MemoryBytesPerS();
  // Bytes a second of large copies in, from page-locked memory. FailedPrecondition where it cannot be locked.
  absl::StatusOr<double> PinnedBytesPerS();
  // FLOP a second of the large product, of random values.
  absl::StatusOr<double> ProductFlopPerS();

  // --- What the engine's operations take; seconds a call, random values.
  // K and V (2 * d_kv) of so many rows of X (d wide), as Transformer::Rebuild multiplies: by a slice of
  // q|k|v, whose weights the chunks of a layer share.
  absl::StatusOr<double> RebuildSeconds(int32_t rows, int64_t d, int64_t d_q, int64_t d_kv);
  // One layer's attention of a decode step over blocks that lie anywhere.
  absl::StatusOr<double> DecodeAttentionSeconds(int32_t sequences, int32_t context);
  // Keys and values that it reads.
  int64_t AttentionBytes(int32_t sequences, int32_t context) const;

 private:
  GpuOperations(device::Device& device, const GpuShape& shape);

  device::StreamId stream() const { return timer_.compute(); }
  int64_t element_bytes() const { return device::SizeOf(device_.info().compute_dtype); }
  // Median over groups.
  absl::StatusOr<double> SecondsPerCall(absl::FunctionRef<void()> call);
  absl::Status Upload(device::DevicePtr to, const void* bytes, int64_t size_bytes);
  // Random values of either sign near 0.2, over and over where it is large.
  absl::Status FillRandom(device::DevicePtr to, int64_t size_bytes);
  // A matrix of random values; `memory` holds it.
  absl::StatusOr<device::PackedMatrix> MakeMatrix(int64_t n, int64_t k, class DeviceBuffer* memory);

  device::Device& device_;
  const GpuShape shape_;
  profiler::DeviceTimer timer_;
  device::DevicePtr ahead_;  // [2 * shape.ahead_bytes]
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GPU_OPERATIONS_H_
