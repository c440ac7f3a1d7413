// BlockChecks: a debugging aid. Every plane of a block has a checksum, made on the device when the block is
// stored and compared with what lies on the host then; it is verified whenever the plane has come back over
// the link. What differs is told once, and is the executor's error from then on: whatever was computed with
// it is worth nothing.
//
// Everything is copied back to the host and waited for, so steps take several times as long. Step thread
// only.
#ifndef SPILLWAY_ENGINE_EXEC_BLOCK_CHECKS_H_
#define SPILLWAY_ENGINE_EXEC_BLOCK_CHECKS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/device/device.h"
#include "engine/exec/carry_tables.h"
#include "engine/kv/block_store.h"
#include "engine/kv/device_cache.h"
#include "engine/kv/host_pool.h"

namespace spillway::exec {

class BlockChecks {
 public:
  // Chunks have at most `chunk_bytes`. All references must outlive this.
  BlockChecks(device::Device& device, const kv::HostPool& pool, const kv::BlockStore& store,
              int64_t chunk_bytes);

  // The block's stores are done, and its planes lie in `cache` still.
  void OnStored(kv::BlockId block, const kv::DeviceCache& cache);
  // `blocks` of a layer came over the link as `form`, to `at`; what is enqueued on `stream` waits for it.
  void OnArrived(device::StreamId stream, int32_t layer, kv::Form form, absl::Span<const CarriedBlock> blocks,
                 device::DevicePtr at);

  // Internal, naming block, layer and plane, from the first difference on; or the device's error.
  const absl::Status& status() const { return status_; }
  int64_t planes_checked() const { return planes_checked_; }  // that came over the link

 private:
  enum class Plane : uint8_t { kK, kV, kX };

  uint64_t& SumOf(kv::BlockId block, int32_t layer, Plane plane);
  int64_t BytesOf(Plane plane) const;
  // Device memory as it is when what is enqueued on `stream` is done; valid until the next call.
  const uint8_t* ReadBack(device::StreamId stream, device::DevicePtr at, int64_t size_bytes);
  void Fail(kv::BlockId block, int32_t layer, Plane plane, const char* what);

  device::Device& device_;
  const kv::HostPool& pool_;
  const kv::BlockStore& store_;
  const device::StreamId stream_;
  const device::EventId read_;
  std::vector<uint64_t> sums_;    // [max_blocks][n_layers][3]
  std::vector<uint8_t> scratch_;  // of one chunk, or of one block's planes
  int64_t planes_checked_ = 0;
  absl::Status status_;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_BLOCK_CHECKS_H_
