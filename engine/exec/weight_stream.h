// WeightStream: the layers' weights of a model that lies in host memory, brought to the device as they are
// needed: two slots of one layer each, the one that is computed with and the one that is being copied to.
//
//   Use(l); Prefetch(l + 1); enqueue layer l's compute; Release();      (and so on, round and round)
//
// Whoever enqueues does so in one order: the compute that reads a slot before the copy that reuses it, which
// waits for that compute on the device. A layer that is used by several items in turn is copied once, as long
// as nobody asks for a third one meanwhile.
//
// What was copied is counted, bytes and time alike, when it is over: a layer that is prefetched for the next
// step in the step that finds it done.
//
// Step thread only. Nothing is allocated after Create.
#ifndef SPILLWAY_ENGINE_EXEC_WEIGHT_STREAM_H_
#define SPILLWAY_ENGINE_EXEC_WEIGHT_STREAM_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/exec/span_timer.h"
#include "engine/exec/step_stats.h"
#include "engine/model/weights.h"

namespace spillway::exec {

class WeightStream final : public model::LayerSource {
 public:
  // Copies layer 0. `timer`: of the stream `copies`. ResourceExhausted without memory for two layers. All
  // references must outlive the stream. REQUIRES: weights.layers_on_host().
  static absl::StatusOr<std::unique_ptr<WeightStream>> Create(device::Device& device,
                                                              const model::ModelWeights& weights,
                                                              device::StreamId compute,
                                                              device::StreamId copies, SpanTimer& timer);
  ~WeightStream() override;
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  // Null where the layer neither lies in a slot nor is on its way to one.
  const model::LayerWeights* Find(int32_t layer) const override;

  // Compute that is enqueued from here to Release may read the layer. False: it was not even on its way, so
  // compute waits for all of its copy.
  bool Use(int32_t layer);
  void Release();
  // Copies the layer where it is absent; not into the slot of the layer that was used last.
  void Prefetch(int32_t layer);

  // Adds what was copied since the last call to the lane.
  void TakeStats(StepStats& stats);

  // What a pass through all layers copies.
  int64_t pass_bytes() const { return pass_bytes_; }
  int64_t slot_bytes() const { return slot_bytes_; }

 private:
  static constexpr size_t kSlots = 2;
  struct Slot {
    int32_t layer = -1;
    model::LayerWeights weights;  // at `memory`
    device::DevicePtr memory;
    device::EventId arrived;
    device::EventId freed;
    bool was_read = false;  // freed was recorded
  };

  WeightStream(device::Device& device, const model::ModelWeights& weights, device::StreamId compute,
               device::StreamId copies, SpanTimer& timer);

  Slot* SlotOf(int32_t layer);
  Slot& Other() { return slots_[1 - current_]; }
  void Copy(int32_t layer, Slot& slot);

  device::Device& device_;
  const model::ModelWeights& weights_;
  const device::StreamId compute_;
  const device::StreamId copies_;
  SpanTimer& timer_;
  int64_t slot_bytes_ = 0;
  int64_t pass_bytes_ = 0;
  device::DevicePtr memory_;
  std::array<Slot, kSlots> slots_;
  size_t current_ = 0;  // the slot that was used last
  LaneStats copied_;    // not yet in any step's stats
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_WEIGHT_STREAM_H_
