// The CPU behind an emulated link.
#include <utility>

#include "engine/device/cpu/emulated_link_device.h"
#include "tests/engine/exec/tiny_link_device.h"

namespace spillway::exec {

absl::StatusOr<std::unique_ptr<device::Device>> CreateTinyLinkDevice(
    std::unique_ptr<device::Device> cpu, const device::StreamEngineOptions& options) {
  return device::CreateEmulatedLinkDevice(std::move(cpu), options);
}

double TinyLinkSlack() { return 1; }
bool TinyLinkIsSlow() { return false; }

}  // namespace spillway::exec
