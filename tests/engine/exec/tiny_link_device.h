// The device with a link that tiny engines run on; each test binary links one kind.
#ifndef SPILLWAY_TESTS_ENGINE_EXEC_TINY_LINK_DEVICE_H_
#define SPILLWAY_TESTS_ENGINE_EXEC_TINY_LINK_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/cpu/stream_engine.h"
#include "engine/device/device.h"

namespace spillway::exec {

// Computes in the dtype of `cpu`, itself or another device.
absl::StatusOr<std::unique_ptr<device::Device>> CreateTinyLinkDevice(
    std::unique_ptr<device::Device> cpu, const device::StreamEngineOptions& options);

// How many times further than on the CPU this device's f32 logits may be from those of the CPU, where sums
// are taken in another order.
double TinyLinkSlack();

// Whether every kernel runs under an emulator: a few cases of each kind then stand for all.
bool TinyLinkIsSlow();

}  // namespace spillway::exec

#endif  // SPILLWAY_TESTS_ENGINE_EXEC_TINY_LINK_DEVICE_H_
