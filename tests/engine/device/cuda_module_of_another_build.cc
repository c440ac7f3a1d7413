// A module as another compiler would have built it.
#include "engine/device/cuda/module.h"

extern "C" const SpillwayCudaModule* SpillwayCudaModuleDoor(void) {
  static constexpr SpillwayCudaModule kModule = {SPILLWAY_CUDA_MODULE_VERSION, "spillway 0, another compiler",
                                                 nullptr};
  return &kModule;
}
