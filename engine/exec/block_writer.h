// BlockWriter: blocks from the time when rows are written to them until they are stored. A block is opened in
// the device cache; when an item's rows have filled it, it goes to the host layer by layer, once; when all of
// it is there it is sealed, and may stay resident or go.
//
// What was copied is counted, bytes and time alike, once the copies are over: that is some steps after the
// one that enqueued them.
//
// Step thread only. Nothing is allocated after the last MakeRoom.
#ifndef SPILLWAY_ENGINE_EXEC_BLOCK_WRITER_H_
#define SPILLWAY_ENGINE_EXEC_BLOCK_WRITER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/device/device.h"
#include "engine/exec/block_checks.h"
#include "engine/exec/residency.h"
#include "engine/exec/span_timer.h"
#include "engine/exec/step_stats.h"
#include "engine/kv/block_store.h"
#include "engine/kv/device_cache.h"
#include "engine/kv/host_pool.h"

namespace spillway::exec {

class BlockWriter {
 public:
  // All references must outlive the writer. `checks`: null, or hears of every block that is stored.
  BlockWriter(device::Device& device, kv::HostPool& pool, const kv::BlockStore& store, kv::DeviceCache& cache,
              const Residency& residency, device::StreamId compute, TimelineWriter& timeline,
              BlockChecks* checks = nullptr);
  ~BlockWriter();  // WaitForAll
  BlockWriter(const BlockWriter&) = delete;
  BlockWriter& operator=(const BlockWriter&) = delete;

  // Steps fill at most so many blocks.
  void MakeRoom(size_t n_blocks);

  // Opens an absent block, or one whose former content lingers; waits for earlier stores where it must.
  void Open(kv::BlockId block);

  // Copies the label's layer of blocks out, in the forms in which they are stored now, once what is enqueued
  // on the compute stream so far has filled them. `label`: of the step and layer; lanes and bytes are filled
  // in here. A form may be dropped, or a block lost, between two layers and while copies are under way:
  // whoever has the slots then stores to them later, on the same stream, and nobody reads them before that is
  // done.
  void StoreLayer(absl::Span<const kv::BlockId> blocks, const SpanLabel& label);
  // Stores that are enqueued from now on begin when `event` has come.
  void WaitFor(device::EventId event) { device_.Wait(copies_, event); }
  // Every layer of the blocks was given to StoreLayer: they are sealed when it is done.
  void Complete(absl::Span<const kv::BlockId> blocks);

  // Seals the blocks whose stores are done.
  void Collect();
  void WaitForAll();
  // The stream of the copies, for those who wait for everything that is enqueued.
  device::StreamId copies() const { return copies_; }

  // Adds what was stored since the last call to the lanes.
  void TakeStats(StepStats& stats);

 private:
  // Blocks on their way to the host.
  struct Stores {
    device::EventId done;
    std::vector<kv::BlockId> blocks;
  };

  void StorePlanes(absl::Span<const kv::BlockId> blocks, SpanLabel label, LaneStats& lane);
  // What of a block that is stored stays on the device, if it may.
  kv::Residence KeptOf(kv::BlockId block) const;
  void WaitForFirst();
  void SealFirst();

  device::Device& device_;
  kv::HostPool& pool_;
  const kv::BlockStore& store_;
  kv::DeviceCache& cache_;
  const Residency& residency_;
  BlockChecks* const checks_;
  const device::StreamId compute_;
  const device::StreamId copies_;
  SpanTimer timer_;
  LaneStats kv_;  // not yet in any step's stats
  LaneStats x_;
  device::EventId projected_;   // a layer's rows are appended: they may be stored
  std::vector<Stores> stores_;  // in a circle
  int32_t first_ = 0;
  int32_t n_stores_ = 0;
  std::vector<device::CopyRun> runs_;  // of one batched copy
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_BLOCK_WRITER_H_
