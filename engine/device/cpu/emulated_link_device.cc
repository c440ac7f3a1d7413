#include "engine/device/cpu/emulated_link_device.h"

#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::device {
namespace {

// Makes an address non-canonical: whoever dereferences it faults.
constexpr uint64_t kAddressMask = uint64_t{1} << 62;
constexpr uint8_t kNanByte = 0xff;  // NaN in f32, f16 and bf16

DevicePtr Outside(DevicePtr inside) { return inside ? DevicePtr{inside.address ^ kAddressMask} : inside; }
DevicePtr Inside(DevicePtr outside) { return outside ? DevicePtr{outside.address ^ kAddressMask} : outside; }
uint8_t* Bytes(DevicePtr outside) { return reinterpret_cast<uint8_t*>(outside.address ^ kAddressMask); }

template <typename... Pointers>
void MakeInside(Pointers&... pointers) {
  ((pointers = Inside(pointers)), ...);
}

class EmulatedLinkDevice final : public Device {
 public:
  EmulatedLinkDevice(std::unique_ptr<Device> compute, const StreamEngineOptions& options)
      : compute_(std::move(compute)), info_(compute_->info()), engine_(options) {
    info_.host_addressable = false;
    info_.emulated_link = true;
    info_.name =
        absl::StrCat(info_.name, " behind an emulated link of ", options.link_bytes_per_s / 1e6, " MB/s");
    info_.link = absl::StrCat("emulated, ", options.link_bytes_per_s / 1e6, " MB/s, ",
                              options.copy_overhead_us, " us a copy");
    compute_stream_ = compute_->CreateStream("compute");
    warm_up_stream_ = engine_.CreateStream();
    warm_up_done_ = engine_.CreateEvent();
  }

  const DeviceInfo& info() const override { return info_; }
  absl::Status status() const override { return compute_->status(); }

  absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what) override {
    SPILLWAY_ASSIGN_OR_RETURN(const DevicePtr inside, compute_->Allocate(size_bytes, what));
    const DevicePtr outside = Outside(inside);
    sizes_[outside.address] = size_bytes;
    std::memset(Bytes(outside), kNanByte, static_cast<size_t>(size_bytes));
    return outside;
  }
  void Free(DevicePtr ptr) override {
    if (!ptr) return;
    const auto it = sizes_.find(ptr.address);
    SPILLWAY_CHECK_MSG(it != sizes_.end(), "freeing what was not allocated");
    std::memset(Bytes(ptr), kNanByte, static_cast<size_t>(it->second));
    sizes_.erase(it);
    compute_->Free(Inside(ptr));
  }
  int64_t allocated_bytes() const override { return compute_->allocated_bytes(); }
  absl::Status RegisterHost(void* data, int64_t size_bytes) override {
    return compute_->RegisterHost(data, size_bytes);
  }
  void UnregisterHost(void* data) override { compute_->UnregisterHost(data); }
  DevicePtr HostAddress(const void*) const override {
    SPILLWAY_CHECK_MSG(false, "a device behind a link cannot read host memory in place");
    return {};
  }

  StreamId CreateStream(absl::string_view) override { return engine_.CreateStream(); }
  EventId CreateEvent() override { return engine_.CreateEvent(); }
  void Record(EventId event, StreamId stream) override { engine_.Record(event, stream); }
  void Wait(StreamId stream, EventId event) override { engine_.Wait(stream, event); }
  bool IsComplete(EventId event) override { return engine_.IsComplete(event); }
  absl::Status Synchronize(EventId event) override {
    engine_.Synchronize(event);
    return compute_->status();
  }
  int64_t ElapsedNs(EventId begin, EventId end) override { return engine_.ElapsedNs(begin, end); }

  void CopyIn(StreamId stream, DevicePtr destination, const void* source, int64_t size_bytes) override {
    CopyOverLink(stream, StreamWorker::kLinkIn, Bytes(destination), source, size_bytes, true);
  }
  void CopyOut(StreamId stream, void* destination, DevicePtr source, int64_t size_bytes) override {
    CopyOverLink(stream, StreamWorker::kLinkOut, destination, Bytes(source), size_bytes, true);
  }
  void CopyWithin(StreamId stream, DevicePtr destination, DevicePtr source, int64_t size_bytes) override {
    engine_.Enqueue(stream, StreamWorker::kCompute,
                    [to = Bytes(destination), from = Bytes(source), size_bytes] {
                      std::memmove(to, from, static_cast<size_t>(size_bytes));
                    });
  }
  void CopyInBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    bool first = true;
    for (const CopyRun& run : runs) {
      CopyOverLink(stream, StreamWorker::kLinkIn, Bytes(run.device), run.host, run.size_bytes, first);
      first = false;
    }
  }
  void CopyOutBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    bool first = true;
    for (const CopyRun& run : runs) {
      CopyOverLink(stream, StreamWorker::kLinkOut, run.host, Bytes(run.device), run.size_bytes, first);
      first = false;
    }
  }
  void Fill(StreamId stream, DevicePtr destination, uint8_t value, int64_t size_bytes) override {
    engine_.Enqueue(stream, StreamWorker::kCompute, [to = Bytes(destination), value, size_bytes] {
      std::memset(to, value, static_cast<size_t>(size_bytes));
    });
  }

  absl::StatusOr<PackedMatrix> PlanMatrix(absl::Span<const TensorView> parts,
                                          WeightMode mode) const override {
    return compute_->PlanMatrix(parts, mode);
  }
  absl::StatusOr<PackedMatrix> PlanTable(const TensorView& table, WeightMode mode) const override {
    return compute_->PlanTable(table, mode);
  }
  absl::Status PackMatrix(absl::Span<const TensorView> parts, const PackedMatrix& plan,
                          void* packed) const override {
    return compute_->PackMatrix(parts, plan, packed);
  }
  absl::StatusOr<PackedMatrix> SliceMatrix(const PackedMatrix& matrix, int64_t first,
                                           int64_t n) const override {
    return compute_->SliceMatrix(matrix, first, n);  // arithmetic on `data`, wherever it lies
  }

  void Embed(StreamId stream, const EmbedArgs& args) override {
    EmbedArgs in = args;
    MakeInside(in.table, in.ids, in.positions, in.append, in.hidden);
    Enqueue(stream, [this, in] { compute_->Embed(compute_stream_, in); });
  }
  void AddNorm(StreamId stream, const AddNormArgs& args) override {
    AddNormArgs in = args;
    MakeInside(in.hidden, in.addend, in.gain, in.bias, in.row_index, in.out);
    Enqueue(stream, [this, in] { compute_->AddNorm(compute_stream_, in); });
  }
  void Gemm(StreamId stream, const PackedMatrix& weight, const GemmArgs& args) override {
    PackedMatrix matrix = weight;
    GemmArgs in = args;
    MakeInside(matrix.data, in.in, in.out, in.bias);
    in.next = nullptr;  // named outside, and read later
    Enqueue(stream, [this, matrix, in] { compute_->Gemm(compute_stream_, matrix, in); });
  }
  void RopeAppend(StreamId stream, const RopeAppendArgs& args) override {
    RopeAppendArgs in = args;
    MakeInside(in.inverse_frequency, in.qkv, in.x, in.append, in.block_positions, in.arena.base);
    Enqueue(stream, [this, in] { compute_->RopeAppend(compute_stream_, in); });
  }
  void PartialAttention(StreamId stream, const PartialAttentionArgs& args) override {
    PartialAttentionArgs in = args;
    MakeInside(in.q, in.sequences, in.blocks, in.arena.base, in.acc, in.max, in.sum);
    Enqueue(stream, [this, in] { compute_->PartialAttention(compute_stream_, in); });
  }
  void MergeAttention(StreamId stream, const MergeAttentionArgs& args) override {
    MergeAttentionArgs in = args;
    MakeInside(in.acc, in.max, in.sum, in.out);
    Enqueue(stream, [this, in] { compute_->MergeAttention(compute_stream_, in); });
  }
  void GatedActivation(StreamId stream, const GatedActivationArgs& args) override {
    GatedActivationArgs in = args;
    MakeInside(in.gate_up, in.out);
    Enqueue(stream, [this, in] { compute_->GatedActivation(compute_stream_, in); });
  }
  void Sample(StreamId stream, const SampleArgs& args) override {
    SampleArgs in = args;
    MakeInside(in.logits);
    Enqueue(stream, [this, in] { compute_->Sample(compute_stream_, in); });
  }

  absl::Status WarmUp(absl::Span<const PackedMatrix> weights, absl::Span<const int32_t> rows) override {
    std::vector<PackedMatrix> inside(weights.begin(), weights.end());
    for (PackedMatrix& matrix : inside) MakeInside(matrix.data);
    // On the compute worker, so that the threads and buffers warmed are those that will be used.
    absl::Status status;
    engine_.Enqueue(warm_up_stream_, StreamWorker::kCompute,
                    [this, &inside, &rows, &status] { status = compute_->WarmUp(inside, rows); });
    engine_.Record(warm_up_done_, warm_up_stream_);
    engine_.Synchronize(warm_up_done_);
    return status;
  }

 private:
  template <typename Callable>
  void Enqueue(StreamId stream, const Callable& work) {
    engine_.Enqueue(stream, StreamWorker::kCompute, work);
  }

  void CopyOverLink(StreamId stream, StreamWorker link, void* to, const void* from, int64_t size_bytes,
                    bool charge_overhead) {
    if (size_bytes == 0) return;
    // Before the copy the target holds nothing of use: a reader that did not wait finds NaN, not last year's
    // data.
    const bool poison = link == StreamWorker::kLinkIn;
    engine_.EnqueueCopy(stream, link, size_bytes, charge_overhead,
                        [to, from, size_bytes, poison](bool begin) {
                          if (begin) {
                            if (poison) std::memset(to, kNanByte, static_cast<size_t>(size_bytes));
                          } else {
                            std::memcpy(to, from, static_cast<size_t>(size_bytes));
                          }
                        });
  }

  std::unique_ptr<Device> compute_;
  DeviceInfo info_;
  StreamId compute_stream_{};  // of `compute_`
  StreamId warm_up_stream_{};
  EventId warm_up_done_{};
  std::map<uint64_t, int64_t> sizes_;  // by outside address
  StreamEngine engine_;                // last: its workers stop before the rest goes
};

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateEmulatedLinkDevice(std::unique_ptr<Device> compute,
                                                                 const StreamEngineOptions& options) {
  if (!compute->info().host_addressable) {
    return absl::InvalidArgumentError("only a device in host memory can stand behind an emulated link");
  }
  if (!(options.link_bytes_per_s > 0) || !std::isfinite(options.link_bytes_per_s) ||
      !(options.copy_overhead_us >= 0) || !(options.jitter_us >= 0)) {
    return absl::InvalidArgumentError("the emulated link needs a positive rate and an overhead of 0 or more");
  }
  return std::make_unique<EmulatedLinkDevice>(std::move(compute), options);
}

}  // namespace spillway::device
