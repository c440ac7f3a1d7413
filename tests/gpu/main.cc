// The main of tests that need a GPU: exits with kSkipped, which ctest knows, where there is none to be used.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine/device/cuda/loader.h"

namespace {

constexpr int kSkipped = 77;

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (GTEST_FLAG_GET(list_tests)) return RUN_ALL_TESTS();
  {
    const auto device = spillway::device::cuda::LoadCudaDevice({});
    if (!device.ok()) {
      std::printf("SKIPPED: %s\n", std::string(device.status().message()).c_str());
      return kSkipped;
    }
    std::printf("on %s, %s, %s\n", (*device)->info().name.c_str(), (*device)->info().driver.c_str(),
                (*device)->info().link.c_str());
  }
  return RUN_ALL_TESTS();
}
