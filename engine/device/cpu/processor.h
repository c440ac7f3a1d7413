// What this machine offers a CPU device: instruction sets, cores, memory.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_PROCESSOR_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_PROCESSOR_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/device/cpu/cpu_device.h"

namespace spillway::device {

// "x86-64-v2", "avx2", "avx512", "avx512_bf16".
absl::string_view NameOf(CpuIsa isa);

// Whether this processor multiplies bf16 matrices in tiles (AMX).
bool HasAmxBf16();

// As the processor names itself: "AMD EPYC 9654".
std::string ProcessorName();

// Threads worth starting: the cores that the process may run on, no more than OMP_NUM_THREADS and than the
// processor time that its control group grants (rounded up).
int32_t UsableThreads();

// Physical memory, or the control group's limit where that is smaller.
int64_t HostMemoryBytes();

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_PROCESSOR_H_
