// Device memory of a CPU is host memory: a DevicePtr holds the address itself.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_ADDRESS_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_ADDRESS_H_

#include "engine/device/types.h"

namespace spillway::device {

template <typename T>
T* At(DevicePtr ptr) {
  return reinterpret_cast<T*>(ptr.address);
}

inline DevicePtr AddressOf(const void* memory) { return DevicePtr{reinterpret_cast<uint64_t>(memory)}; }

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_ADDRESS_H_
