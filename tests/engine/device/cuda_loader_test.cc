// Loading the CUDA module: what is missing or wrong is named. The modules are small libraries made for this
// test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "engine/device/cuda/loader.h"

namespace spillway::device::cuda {
namespace {

using testing::AllOf;
using testing::HasSubstr;

absl::StatusOr<std::unique_ptr<Device>> Load(const std::string& path) {
  CudaLoadOptions options;
  options.module_path = path;
  return LoadCudaDevice(options);
}

TEST(CudaLoader, MissingModuleIsNotFound) {
  const absl::Status status = Load("/no/such/folder/libspillway_cuda.so").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("no CUDA module"), HasSubstr("nvcc")));
}

TEST(CudaLoader, MissingLibraryIsNamed) {
  const absl::Status status = Load(SPILLWAY_MODULE_WITHOUT_LIBRARY).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("libspillway_gone.so.13"), HasSubstr("LD_LIBRARY_PATH")));
}

TEST(CudaLoader, FileThatIsNoLibraryIsRefused) {
  const std::string path = testing::TempDir() + "no_library.so";
  std::ofstream(path) << "not a library";
  const absl::Status status = Load(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be loaded"));
}

TEST(CudaLoader, ModuleOfAnotherBuildIsRefused) {
  const absl::Status status = Load(SPILLWAY_MODULE_OF_ANOTHER_BUILD).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("another build"), HasSubstr("another compiler")));
}

}  // namespace
}  // namespace spillway::device::cuda
