#include "engine/exec/weight_stream.h"

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::exec {
namespace {

constexpr int64_t kAlignmentBytes = 256;  // as Device::Allocate gives

}  // namespace

absl::StatusOr<std::unique_ptr<WeightStream>> WeightStream::Create(device::Device& device,
                                                                   const model::ModelWeights& weights,
                                                                   device::StreamId compute,
                                                                   device::StreamId copies,
                                                                   SpanTimer& timer) {
  SPILLWAY_CHECK(weights.layers_on_host());
  std::unique_ptr<WeightStream> stream(new WeightStream(device, weights, compute, copies, timer));
  SPILLWAY_ASSIGN_OR_RETURN(
      stream->memory_, device.Allocate(static_cast<int64_t>(kSlots) * stream->slot_bytes_, "layers in turn"));
  for (size_t i = 0; i < kSlots; ++i) {
    stream->slots_[i].memory = stream->memory_ + static_cast<int64_t>(i) * stream->slot_bytes_;
  }
  stream->Copy(0, stream->slots_[0]);
  SPILLWAY_RETURN_IF_ERROR(device.Synchronize(stream->slots_[0].arrived));
  SPILLWAY_RETURN_IF_ERROR(timer.CollectAll());
  stream->copied_ = {};  // of no step
  return stream;
}

WeightStream::WeightStream(device::Device& device, const model::ModelWeights& weights,
                           device::StreamId compute, device::StreamId copies, SpanTimer& timer)
    : device_(device), weights_(weights), compute_(compute), copies_(copies), timer_(timer) {
  slot_bytes_ = (weights.largest_layer_bytes() + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  for (size_t i = 0; i < weights.layers().size(); ++i) {
    pass_bytes_ += weights.LayerBytes(static_cast<int32_t>(i));
  }
  for (Slot& slot : slots_) {
    slot.arrived = device.CreateEvent();
    slot.freed = device.CreateEvent();
  }
}

WeightStream::~WeightStream() {
  for (Slot& slot : slots_) {
    // A prefetch that nobody waited for; a lost device copies nothing any more.
    if (slot.layer >= 0) (void)device_.Synchronize(slot.arrived);
  }
  (void)timer_.CollectAll();
  if (memory_) device_.Free(memory_);
}

WeightStream::Slot* WeightStream::SlotOf(int32_t layer) {
  for (Slot& slot : slots_) {
    if (slot.layer == layer) return &slot;
  }
  return nullptr;
}

const model::LayerWeights* WeightStream::Find(int32_t layer) const {
  for (const Slot& slot : slots_) {
    if (slot.layer == layer) return &slot.weights;
  }
  return nullptr;
}

bool WeightStream::Use(int32_t layer) {
  Slot* slot = SlotOf(layer);
  const bool held = slot != nullptr;
  if (!held) {
    slot = &Other();
    Copy(layer, *slot);
  }
  current_ = static_cast<size_t>(slot - slots_.data());
  device_.Wait(compute_, slot->arrived);
  return held;
}

void WeightStream::Release() {
  Slot& slot = slots_[current_];
  device_.Record(slot.freed, compute_);
  slot.was_read = true;
}

void WeightStream::Prefetch(int32_t layer) {
  if (SlotOf(layer) == nullptr) Copy(layer, Other());
}

void WeightStream::Copy(int32_t layer, Slot& slot) {
  slot.layer = layer;
  slot.weights = weights_.LayerAt(layer, slot.memory);
  const int64_t size_bytes = weights_.LayerBytes(layer);
  // Steps that share the load are not told apart: it is of none of them.
  SpanLabel label;
  label.lane = Lane::kWeightLoad;
  label.layer = layer;
  label.bytes = size_bytes;
  SpanLabel waiting = label;
  waiting.waiting = true;
  waiting.bytes = 0;
  timer_.Begin();
  if (slot.was_read) device_.Wait(copies_, slot.freed);
  timer_.End(&copied_.stall_ns, waiting);
  timer_.Begin();
  device_.CopyIn(copies_, slot.memory, weights_.HostLayer(layer), size_bytes);
  timer_.EndCopies(&copied_, label, 1);
  device_.Record(slot.arrived, copies_);
}

void WeightStream::TakeStats(StepStats& stats) {
  const LaneStats copied = std::exchange(copied_, {});
  LaneStats& lane = stats.lanes[static_cast<size_t>(Lane::kWeightLoad)];
  lane.busy_ns += copied.busy_ns;
  lane.stall_ns += copied.stall_ns;
  lane.bytes += copied.bytes;
  lane.copies += copied.copies;
}

}  // namespace spillway::exec
