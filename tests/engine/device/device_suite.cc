#include "tests/engine/device/device_suite.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/fakes/encode.h"

namespace spillway::device {
namespace {

uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

}  // namespace

double UnitOf(DType type) {
  switch (type) {
    case DType::kF32:
      return 0x1p-24;
    case DType::kF16:
      return 0x1p-11;
    case DType::kBF16:
      return 0x1p-8;
  }
  return 0;
}

double RoundTo(DType type, double value) { return Decode(type, Encode(type, {value}))[0]; }

std::vector<uint8_t> Encode(DType type, const std::vector<double>& values) {
  std::vector<uint8_t> bytes(values.size() * static_cast<size_t>(SizeOf(type)));
  for (size_t i = 0; i < values.size(); ++i) {
    const float value = static_cast<float>(values[i]);
    if (type == DType::kF32) {
      std::memcpy(&bytes[i * 4], &value, 4);
    } else {
      const uint16_t bits = type == DType::kF16 ? fakes::FloatToHalf(value) : ToBf16(value);
      std::memcpy(&bytes[i * 2], &bits, 2);
    }
  }
  return bytes;
}

std::vector<double> Decode(DType type, const std::vector<uint8_t>& bytes) {
  std::vector<double> values(bytes.size() / static_cast<size_t>(SizeOf(type)));
  if (type == DType::kF16) {
    std::vector<float> widened(values.size());
    DecodeToF32(Encoding::kF16, bytes.data(), static_cast<int64_t>(widened.size()), widened.data());
    return std::vector<double>(widened.begin(), widened.end());
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == DType::kF32) {
      float value;
      std::memcpy(&value, &bytes[i * 4], 4);
      values[i] = static_cast<double>(value);
    } else {
      uint16_t bits;
      std::memcpy(&bits, &bytes[i * 2], 2);
      values[i] = static_cast<double>(FromBf16(bits));
    }
  }
  return values;
}

void ExpectClose(const std::vector<double>& got, const std::vector<double>& want, Tolerance tolerance,
                 const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  int bad = 0;
  for (size_t i = 0; i < got.size() && bad < 5; ++i) {
    const double allowed = tolerance.absolute + tolerance.relative * std::abs(want[i]);
    // Written so that a NaN on either side fails; equal infinities pass.
    if (got[i] == want[i] || std::abs(got[i] - want[i]) <= allowed) continue;
    ADD_FAILURE() << what << " [" << i << " of " << got.size() << "] is " << got[i] << ", want " << want[i]
                  << " +- " << allowed;
    ++bad;
  }
}

void DeviceSuite::SetUp() {
  auto device = GetParam().create(0);
  ASSERT_TRUE(device.ok()) << device.status();
  device_ = std::move(device).value();
  stream_ = device_->CreateStream("test");
  event_ = device_->CreateEvent();
}

void DeviceSuite::TearDown() {
  if (device_ == nullptr) return;
  for (DevicePtr allocation : allocations_) device_->Free(allocation);
  EXPECT_EQ(device_->allocated_bytes(), 0);
  EXPECT_TRUE(device_->status().ok()) << device_->status();
}

std::vector<double> DeviceSuite::Random(int64_t n, double deviation) {
  std::normal_distribution<double> normal(0, deviation);
  std::vector<double> values(static_cast<size_t>(n));
  for (double& value : values) value = normal(random_);
  return Decode(type(), Encode(type(), values));
}

DevicePtr DeviceSuite::Allocate(int64_t size_bytes) {
  auto allocation = device_->Allocate(size_bytes, "a test");
  SPILLWAY_CHECK(allocation.ok());
  allocations_.push_back(*allocation);
  return *allocation;
}

DevicePtr DeviceSuite::Upload(const void* data, int64_t size_bytes) {
  const DevicePtr destination = Allocate(size_bytes);
  device_->CopyIn(stream_, destination, data, size_bytes);
  Synchronize();
  return destination;
}

DevicePtr DeviceSuite::UploadAs(DType type, const std::vector<double>& values) {
  return UploadArray(Encode(type, values));
}

std::vector<uint8_t> DeviceSuite::Download(DevicePtr source, int64_t size_bytes) {
  std::vector<uint8_t> bytes(static_cast<size_t>(size_bytes));
  device_->CopyOut(stream_, bytes.data(), source, size_bytes);
  Synchronize();
  return bytes;
}

std::vector<double> DeviceSuite::DownloadAs(DType type, DevicePtr source, int64_t n) {
  return Decode(type, Download(source, n * SizeOf(type)));
}

void DeviceSuite::Synchronize() {
  device_->Record(event_, stream_);
  const absl::Status done = device_->Synchronize(event_);
  ASSERT_TRUE(done.ok()) << done;
}

PackedParts DeviceSuite::MakePackedParts(const std::vector<std::pair<Encoding, int64_t>>& parts, int64_t k) {
  PackedParts made;
  std::normal_distribution<float> normal(0, 0.3F);
  for (const auto& [encoding, rows] : parts) {
    std::vector<float> values(static_cast<size_t>(rows * k));
    for (float& value : values) value = normal(random_);
    made.bytes.push_back(fakes::Encode(encoding, values));
    DecodeToF32(encoding, made.bytes.back().data(), rows * k, values.data());
    made.values.insert(made.values.end(), values.begin(), values.end());
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    made.views.push_back({absl::StrCat("part ", i),
                          parts[i].first,
                          {parts[i].second, k},
                          made.bytes[i].data(),
                          static_cast<int64_t>(made.bytes[i].size())});
  }
  return made;
}

PackedMatrix DeviceSuite::UploadMatrix(const std::vector<double>& values, int64_t n, int64_t k) {
  const std::vector<uint8_t> bytes = Encode(DType::kF32, values);
  TensorView view{"matrix", Encoding::kF32, {n, k}, bytes.data(), static_cast<int64_t>(bytes.size())};
  auto plan = device_->PlanMatrix({view}, WeightMode::kExpanded);
  SPILLWAY_CHECK(plan.ok());
  std::vector<uint8_t> packed(static_cast<size_t>(plan->size_bytes));
  SPILLWAY_CHECK(device_->PackMatrix({view}, *plan, packed.data()).ok());
  plan->data = UploadArray(packed);
  return *plan;
}

}  // namespace spillway::device
