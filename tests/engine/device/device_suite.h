// One suite of tests for every device and dtype: the TEST_Ps in suite_*.cc run against whatever is
// instantiated of DeviceSuite (cpu_device_test.cc does for the CPU, with each instruction set that the
// machine has). They go through the Device interface alone and so make no use of host_addressable memory.
#ifndef SPILLWAY_TESTS_ENGINE_DEVICE_DEVICE_SUITE_H_
#define SPILLWAY_TESTS_ENGINE_DEVICE_DEVICE_SUITE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/device/device.h"

namespace spillway::device {

struct DeviceCase {
  std::string name;  // of the instantiation: "avx2_f32"
  // With the given memory budget; 0: none of its own.
  std::function<absl::StatusOr<std::unique_ptr<Device>>(int64_t memory_bytes)> create;
  // Of an emulated device: where many runs make a test sharper, one in so many is made.
  int one_in = 1;
};

// What a result may be off by: absolute plus relative to the reference's value.
struct Tolerance {
  double absolute;
  double relative;
};

// The unit of rounding: half the distance from 1 to the next value.
double UnitOf(DType type);
double RoundTo(DType type, double value);
// Values as the device's T, and back.
std::vector<uint8_t> Encode(DType type, const std::vector<double>& values);
std::vector<double> Decode(DType type, const std::vector<uint8_t>& bytes);

void ExpectClose(const std::vector<double>& got, const std::vector<double>& want, Tolerance tolerance,
                 const std::string& what);

// A matrix whose parts are packed as given, of values that each encoding holds exactly.
struct PackedParts {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<TensorView> views;
  std::vector<double> values;  // what the bytes mean
};

class DeviceSuite : public testing::TestWithParam<DeviceCase> {
 public:
  void SetUp() override;
  void TearDown() override;

  DType type() const { return device_->info().compute_dtype; }
  // Random values that T holds exactly, normal with this deviation.
  std::vector<double> Random(int64_t n, double deviation = 1);

  // Device arrays live until the test ends. Uploads are complete when they return.
  DevicePtr Allocate(int64_t size_bytes);
  DevicePtr Upload(const void* data, int64_t size_bytes);
  DevicePtr UploadAs(DType type, const std::vector<double>& values);
  DevicePtr UploadT(const std::vector<double>& values) { return UploadAs(type(), values); }
  DevicePtr UploadF32(const std::vector<double>& values) { return UploadAs(DType::kF32, values); }
  template <typename S>
  DevicePtr UploadArray(const std::vector<S>& values) {
    return Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(S)));
  }
  std::vector<uint8_t> Download(DevicePtr source, int64_t size_bytes);
  std::vector<double> DownloadAs(DType type, DevicePtr source, int64_t n);
  std::vector<double> DownloadT(DevicePtr source, int64_t n) { return DownloadAs(type(), source, n); }
  std::vector<double> DownloadF32(DevicePtr source, int64_t n) { return DownloadAs(DType::kF32, source, n); }
  void Synchronize();

  // Of random values; encodings and rows of the parts.
  PackedParts MakePackedParts(const std::vector<std::pair<Encoding, int64_t>>& parts, int64_t k);
  // A [n, k] matrix of f32 values, packed and placed in device memory.
  PackedMatrix UploadMatrix(const std::vector<double>& values, int64_t n, int64_t k);

  std::unique_ptr<Device> device_;
  StreamId stream_{};
  EventId event_{};
  std::mt19937 random_{1};

 private:
  std::vector<DevicePtr> allocations_;
};

}  // namespace spillway::device

#endif  // SPILLWAY_TESTS_ENGINE_DEVICE_DEVICE_SUITE_H_
