// Runs a kernel to its end on a machine of one seed: what most tests of the emulator do.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_LAUNCH_FOR_TEST_H_
#define SPILLWAY_TESTS_FAKES_CUDA_LAUNCH_FOR_TEST_H_

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <vector>

#include "engine/device/cuda/launch.h"
#include "tests/fakes/cuda/machine.h"

namespace spillway::fakes::cuda {

inline void UseSeed(uint64_t seed) {
  MachineOptions options;
  options.seed = seed;
  ResetMachine(options);
}

// Device memory that holds `values`.
template <typename T>
T* OnDevice(const std::vector<T>& values) {
  T* device = nullptr;
  if (cudaMalloc(&device, values.size() * sizeof(T)) != cudaSuccess) return nullptr;
  cudaMemcpy(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
  return device;
}

template <typename T>
std::vector<T> FromDevice(const T* device, size_t n) {
  std::vector<T> values(n);
  cudaMemcpy(values.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost);
  return values;
}

// ThreadSanitizer reports a race, whatever the order is in which `run()` does things. Under it alone.
// In a process of its own: of one that is forked from many threads, which fibers are to it, ThreadSanitizer
// does not look at everything.
#define SPILLWAY_EXPECT_RACE(run)                                          \
  do {                                                                     \
    GTEST_FLAG_SET(death_test_style, "threadsafe");                        \
    const auto run_and_exit = [&] {                                        \
      run();                                                               \
      std::exit(0);                                                        \
    };                                                                     \
    EXPECT_EXIT(run_and_exit(), testing::ExitedWithCode(66), "data race"); \
  } while (false)

template <typename... Parameters>
cudaError_t RunKernel(void (*kernel)(Parameters...), const device::cuda::LaunchShape& shape,
                      std::type_identity_t<Parameters>... args) {
  cudaError_t error = device::cuda::Launch(kernel, shape, nullptr, args...);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_LAUNCH_FOR_TEST_H_
