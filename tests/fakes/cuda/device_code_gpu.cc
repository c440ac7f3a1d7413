#include "tests/fakes/cuda/device_code.h"

namespace spillway::fakes::cuda {

std::vector<uint64_t> DeviceSeeds() { return {0}; }

std::string StartDevice(uint64_t /*seed*/) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  return error == cudaSuccess ? "" : std::string("no GPU: ") + cudaGetErrorString(error);
}

}  // namespace spillway::fakes::cuda
