// The CPU as a device: the reference for every other one, and the honest mode of a machine without a GPU.
// Device memory is host memory, streams run their work inline in the calling thread (in order, so every event
// is complete once recorded). Kernels are dispatched at run time over an x86-64-v2 baseline. Products are our
// own, as fast as oneDNN's on AVX-512 and with the same bits for a row in every batch; where the processor
// has AMX, which ours do not use, large ones go through oneDNN over the same packed weights.
//
// Thread-compatible; operations run on the caller and on worker threads of the device's own (on OpenMP's
// where products go through oneDNN).
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_CPU_DEVICE_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_CPU_DEVICE_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/device/device.h"

namespace spillway::device {

enum class CpuIsa : uint8_t { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

struct CpuDeviceOptions {
  int32_t threads = 0;         // 0: the cores this process may use
  int64_t memory_bytes = 0;    // 0: no budget of its own
  std::optional<DType> dtype;  // unset: bf16 where the processor multiplies it, else f32
  std::optional<CpuIsa> isa;   // unset: the best this processor has; InvalidArgument if it has not
  std::optional<bool> onednn;  // large products through oneDNN; unset: where the processor has AMX for them
};

// The best instruction set of this processor.
CpuIsa DetectCpuIsa();

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(const CpuDeviceOptions& options);

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_CPU_DEVICE_H_
