// What the machine says of the link to its GPU, of where it ends, and of the GPU's driver.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PCI_LINK_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PCI_LINK_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace spillway::device::cuda {

// "PCIe 4.0 x16" of the device with this bus id ("0000:65:00.0"), from sysfs; empty where it does not say.
std::string DescribePciLink(absl::string_view bus_id, absl::string_view sysfs = "/sys/bus/pci/devices");

// Of the host's memory that this device is attached to; -1 where the machine does not say, or has one only.
int32_t NumaNodeOf(absl::string_view bus_id, absl::string_view sysfs = "/sys/bus/pci/devices");

// "580.65.06", from the first line of the driver's own file; empty where there is none.
std::string NvidiaDriverVersion(absl::string_view path = "/proc/driver/nvidia/version");

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PCI_LINK_H_
