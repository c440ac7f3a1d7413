// Small value types of the device room.
#ifndef SPILLWAY_ENGINE_DEVICE_TYPES_H_
#define SPILLWAY_ENGINE_DEVICE_TYPES_H_

#include <cstdint>

namespace spillway::device {

enum class DType : uint8_t { kF32, kF16, kBF16 };

constexpr int64_t SizeOf(DType type) { return type == DType::kF32 ? 4 : 2; }
constexpr const char* NameOf(DType type) {
  return type == DType::kF32 ? "f32" : type == DType::kF16 ? "f16" : "bf16";
}

// How weight matrices are held: as the file packs them, or expanded to the compute type at load. kAuto: each
// as this device multiplies it well, packed rather than expanded.
enum class WeightMode : uint8_t { kPacked, kExpanded, kAuto };

// An address in device memory. The host does arithmetic on it and nothing else.
struct DevicePtr {
  uint64_t address = 0;

  constexpr explicit operator bool() const { return address != 0; }
  constexpr DevicePtr operator+(int64_t offset_bytes) const {
    return DevicePtr{address + static_cast<uint64_t>(offset_bytes)};
  }
  friend constexpr bool operator==(DevicePtr a, DevicePtr b) { return a.address == b.address; }
};

enum class StreamId : int32_t {};
enum class EventId : int32_t {};

struct CopyRun {
  DevicePtr device;
  void* host = nullptr;
  int64_t size_bytes = 0;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_TYPES_H_
