#include "engine/exec/block_checks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"

namespace spillway::exec {
namespace {

constexpr int64_t kPlanes = 3;

// FNV-1a over words, four of them side by side. Sizes are of whole vectors of elements.
uint64_t Checksum(const uint8_t* data, int64_t size_bytes) {
  constexpr uint64_t kPrime = 0x100000001b3;
  uint64_t lanes[4] = {0xcbf29ce484222325, 0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9};
  for (int64_t at = 0; at < size_bytes; at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, data + at, static_cast<size_t>(std::min<int64_t>(8, size_bytes - at)));
    uint64_t& lane = lanes[at / 8 % 4];
    lane = (lane ^ word) * kPrime;
    lane ^= lane >> 29;
  }
  uint64_t sum = static_cast<uint64_t>(size_bytes);
  for (const uint64_t lane : lanes) sum = (sum ^ lane) * kPrime;
  return sum;
}

}  // namespace

BlockChecks::BlockChecks(device::Device& device, const kv::HostPool& pool, const kv::BlockStore& store,
                         int64_t chunk_bytes)
    : device_(device),
      pool_(pool),
      store_(store),
      stream_(device.CreateStream("checks")),
      read_(device.CreateEvent()),
      sums_(static_cast<size_t>(store.max_blocks() * pool.geometry().n_layers * kPlanes)),
      scratch_(static_cast<size_t>(
          std::max({chunk_bytes, 2 * pool.geometry().slot_bytes(), BytesOf(Plane::kX)}))) {}

int64_t BlockChecks::BytesOf(Plane plane) const {
  const kv::Geometry& geometry = pool_.geometry();
  return plane == Plane::kX ? geometry.block_tokens * geometry.chi_bytes() : geometry.slot_bytes();
}

uint64_t& BlockChecks::SumOf(kv::BlockId block, int32_t layer, Plane plane) {
  const int64_t index =
      (int64_t{block} * pool_.geometry().n_layers + layer) * kPlanes + static_cast<int64_t>(plane);
  return sums_[static_cast<size_t>(index)];
}

const uint8_t* BlockChecks::ReadBack(device::StreamId stream, device::DevicePtr at, int64_t size_bytes) {
  SPILLWAY_CHECK(size_bytes <= static_cast<int64_t>(scratch_.size()));
  device_.CopyOut(stream, scratch_.data(), at, size_bytes);
  device_.Record(read_, stream);
  if (absl::Status status = device_.Synchronize(read_); !status.ok() && status_.ok()) {
    status_ = std::move(status);
  }
  return scratch_.data();
}

void BlockChecks::OnStored(kv::BlockId block, const kv::DeviceCache& cache) {
  const kv::Planes& on_device = cache.PlanesOf(block);
  const kv::Planes& on_host = store_.PlanesOf(block);
  for (int32_t layer = 0; layer < pool_.geometry().n_layers && status_.ok(); ++layer) {
    const auto check = [&](Plane plane, int32_t device_slot, int32_t host_slot) {
      if (host_slot < 0 || !status_.ok()) return;
      const device::DevicePtr at = cache.Arena(layer).base + device_slot * pool_.geometry().slot_bytes();
      const uint64_t sum = Checksum(ReadBack(stream_, at, BytesOf(plane)), BytesOf(plane));
      SumOf(block, layer, plane) = sum;
      if (status_.ok() && Checksum(pool_.Slot(layer, host_slot), BytesOf(plane)) != sum) {
        Fail(block, layer, plane, "what was stored is not what the device has");
      }
    };
    check(Plane::kK, on_device.k, on_host.k);
    check(Plane::kV, on_device.v, on_host.v);
    check(Plane::kX, on_device.x, on_host.x);
  }
}

void BlockChecks::OnArrived(device::StreamId stream, int32_t layer, kv::Form form,
                            absl::Span<const CarriedBlock> blocks, device::DevicePtr at) {
  if (!status_.ok()) return;
  const bool is_x = form == kv::Form::kX;
  const int64_t block_bytes = is_x ? BytesOf(Plane::kX) : 2 * BytesOf(Plane::kK);
  const uint8_t* data = ReadBack(stream, at, block_bytes * static_cast<int64_t>(blocks.size()));
  for (const CarriedBlock& carried : blocks) {
    const auto check = [&](Plane plane) {
      ++planes_checked_;
      if (status_.ok() && Checksum(data, BytesOf(plane)) != SumOf(carried.block, layer, plane)) {
        Fail(carried.block, layer, plane, "what came over the link is not what was stored");
      }
      data += BytesOf(plane);
    };
    if (is_x) {
      check(Plane::kX);
    } else {
      check(Plane::kK);
      check(Plane::kV);
    }
  }
}

void BlockChecks::Fail(kv::BlockId block, int32_t layer, Plane plane, const char* what) {
  const char* const name = plane == Plane::kX ? "X" : plane == Plane::kV ? "V" : "K";
  Log(LogLevel::kError, what, {{"block", block}, {"layer", layer}, {"plane", name}});
  status_ =
      absl::InternalError(absl::StrCat("block ", block, ", layer ", layer, ", plane ", name, ": ", what));
}

}  // namespace spillway::exec
