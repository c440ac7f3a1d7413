// A Device that passes every call on to another one: tests override what they want to see or break.
#ifndef SPILLWAY_TESTS_FAKES_FORWARDING_DEVICE_H_
#define SPILLWAY_TESTS_FAKES_FORWARDING_DEVICE_H_

#include "engine/device/device.h"

namespace spillway::device {

class ForwardingDevice : public Device {
 public:
  // `target` must outlive this.
  explicit ForwardingDevice(Device& target) : target_(target) {}

  const DeviceInfo& info() const override { return target_.info(); }
  absl::Status status() const override { return target_.status(); }

  absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what) override {
    return target_.Allocate(size_bytes, what);
  }
  void Free(DevicePtr ptr) override { target_.Free(ptr); }
  int64_t allocated_bytes() const override { return target_.allocated_bytes(); }
  absl::Status RegisterHost(void* data, int64_t size_bytes) override {
    return target_.RegisterHost(data, size_bytes);
  }
  void UnregisterHost(void* data) override { target_.UnregisterHost(data); }
  DevicePtr HostAddress(const void* data) const override { return target_.HostAddress(data); }

  StreamId CreateStream(absl::string_view name) override { return target_.CreateStream(name); }
  EventId CreateEvent() override { return target_.CreateEvent(); }
  void Record(EventId event, StreamId stream) override { target_.Record(event, stream); }
  void Wait(StreamId stream, EventId event) override { target_.Wait(stream, event); }
  bool IsComplete(EventId event) override { return target_.IsComplete(event); }
  absl::Status Synchronize(EventId event) override { return target_.Synchronize(event); }
  int64_t ElapsedNs(EventId begin, EventId end) override { return target_.ElapsedNs(begin, end); }

  void CopyIn(StreamId stream, DevicePtr destination, const void* source, int64_t size_bytes) override {
    target_.CopyIn(stream, destination, source, size_bytes);
  }
  void CopyOut(StreamId stream, void* destination, DevicePtr source, int64_t size_bytes) override {
    target_.CopyOut(stream, destination, source, size_bytes);
  }
  void CopyWithin(StreamId stream, DevicePtr destination, DevicePtr source, int64_t size_bytes) override {
    target_.CopyWithin(stream, destination, source, size_bytes);
  }
  void CopyInBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    target_.CopyInBatch(stream, runs);
  }
  void CopyOutBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    target_.CopyOutBatch(stream, runs);
  }
  void Fill(StreamId stream, DevicePtr destination, uint8_t value, int64_t size_bytes) override {
    target_.Fill(stream, destination, value, size_bytes);
  }

  absl::StatusOr<PackedMatrix> PlanMatrix(absl::Span<const TensorView> parts,
                                          WeightMode mode) const override {
    return target_.PlanMatrix(parts, mode);
  }
  absl::StatusOr<PackedMatrix> PlanTable(const TensorView& table, WeightMode mode) const override {
    return target_.PlanTable(table, mode);
  }
  absl::StatusOr<PackedMatrix> SliceMatrix(const PackedMatrix& matrix, int64_t first,
                                           int64_t n) const override {
    return target_.SliceMatrix(matrix, first, n);
  }
  absl::Status PackMatrix(absl::Span<const TensorView> parts, const PackedMatrix& plan,
                          void* packed) const override {
    return target_.PackMatrix(parts, plan, packed);
  }

  void Embed(StreamId stream, const EmbedArgs& args) override { target_.Embed(stream, args); }
  void AddNorm(StreamId stream, const AddNormArgs& args) override { target_.AddNorm(stream, args); }
  void Gemm(StreamId stream, const PackedMatrix& weight, const GemmArgs& args) override {
    target_.Gemm(stream, weight, args);
  }
  void RopeAppend(StreamId stream, const RopeAppendArgs& args) override { target_.RopeAppend(stream, args); }
  void PartialAttention(StreamId stream, const PartialAttentionArgs& args) override {
    target_.PartialAttention(stream, args);
  }
  void MergeAttention(StreamId stream, const MergeAttentionArgs& args) override {
    target_.MergeAttention(stream, args);
  }
  void GatedActivation(StreamId stream, const GatedActivationArgs& args) override {
    target_.GatedActivation(stream, args);
  }
  void Sample(StreamId stream, const SampleArgs& args) override { target_.Sample(stream, args); }
  absl::Status WarmUp(absl::Span<const PackedMatrix> weights, absl::Span<const int32_t> rows) override {
    return target_.WarmUp(weights, rows);
  }

 private:
  Device& target_;
};

}  // namespace spillway::device

#endif  // SPILLWAY_TESTS_FAKES_FORWARDING_DEVICE_H_
