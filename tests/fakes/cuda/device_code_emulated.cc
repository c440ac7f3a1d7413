#include "tests/fakes/cuda/device_code.h"
#include "tests/fakes/cuda/machine.h"

namespace spillway::fakes::cuda {

std::vector<uint64_t> DeviceSeeds() { return {1, 2, 3, 4, 5, 6}; }

std::string StartDevice(uint64_t seed) {
  MachineOptions options;
  options.seed = seed;
  ResetMachine(options);
  return "";
}

}  // namespace spillway::fakes::cuda
