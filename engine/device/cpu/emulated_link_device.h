// A device behind an emulated link: another host-addressable device's compute, with memory of its own that
// only paced copies reach. For developing and testing the executors without a GPU. It proves byte accounting,
// ordering and the linear program, not PCIe; results obtained with it are labelled "emulated link".
//
// It is built to show mistakes: device addresses fault when the host dereferences them, fresh and freed
// memory and the target of a copy under way hold NaN, sources are read when the copy ends, and a seeded
// jitter delays every worker.
//
// Thread-compatible, as Device.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_EMULATED_LINK_DEVICE_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_EMULATED_LINK_DEVICE_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/cpu/stream_engine.h"
#include "engine/device/device.h"

namespace spillway::device {

// InvalidArgument when `compute` is not host-addressable or the link's rate is not positive.
// Honest rates on a shared memory bus are about 50-250 MB/s: faster copies take compute's bandwidth.
absl::StatusOr<std::unique_ptr<Device>> CreateEmulatedLinkDevice(std::unique_ptr<Device> compute,
                                                                 const StreamEngineOptions& options);

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_EMULATED_LINK_DEVICE_H_
