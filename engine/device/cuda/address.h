// A DevicePtr holds the address itself.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_ADDRESS_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_ADDRESS_H_

#include "engine/device/arithmetic/portable.h"
#include "engine/device/types.h"

namespace spillway::device::cuda {

template <typename T>
SPILLWAY_PORTABLE T* At(DevicePtr ptr) {
  return reinterpret_cast<T*>(ptr.address);
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_ADDRESS_H_
