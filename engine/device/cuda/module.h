// The door of libspillway_cuda.so: one C function, whose table says first of all of which build it is. A
// Device is a C++ object, so module and program must come from the same sources and compiler; anything else
// is refused by its stamp.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_MODULE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_MODULE_H_

#include <stddef.h>
#include <stdint.h>

// Grows with every change of the structures below and of those in device.h.
#define SPILLWAY_CUDA_MODULE_VERSION 3
// What else must agree: Device's classes are compiled into both.
#define SPILLWAY_CUDA_MODULE_STAMP "spillway " SPILLWAY_VERSION ", compiler " __VERSION__

extern "C" {

struct SpillwayCudaOptions {
  int64_t memory_bytes;     // 0: what is free
  int32_t dtype;            // a spillway::device::DType; -1: the device's choice
  int32_t overlap_kernels;  // 0: kernels follow one another in full
};

struct SpillwayCudaModule {
  uint32_t version;   // SPILLWAY_CUDA_MODULE_VERSION
  const char* stamp;  // SPILLWAY_CUDA_MODULE_STAMP
  // Makes a spillway::device::Device, which the caller owns. Returns 0, or an absl::StatusCode with `message`
  // filled (and cut where it is too long).
  int32_t (*create)(const SpillwayCudaOptions* options, void** device, char* message, size_t message_bytes);
};

const SpillwayCudaModule* SpillwayCudaModuleDoor(void);

}  // extern "C"

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_MODULE_H_
