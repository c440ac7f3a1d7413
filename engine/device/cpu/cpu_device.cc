#include "engine/device/cpu/cpu_device.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cpu/address.h"
#include "engine/device/cpu/attention.h"
#include "engine/device/cpu/host_memory.h"
#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/onednn_products.h"
#include "engine/device/cpu/processor.h"
#include "engine/device/cpu/sampler.h"
#include "engine/device/cpu/thread_team.h"
#include "engine/device/cpu/weight_layout.h"
#include "engine/device/matrix_parts.h"

namespace spillway::device {
namespace {

// Elements below which an elementwise operation, and multiplications below which a product, is done by the
// calling thread alone.
constexpr int64_t kSerialElements = 8192;
constexpr int64_t kSerialActivations = 4096;
constexpr int64_t kSerialMultiplications = 65536;

const Kernels& KernelsFor(CpuIsa isa, DType type) {
  if (type == DType::kBF16) return kAvx512KernelsBf16;
  switch (isa) {
    case CpuIsa::kBaseline:
      return kSse4KernelsF32;
    case CpuIsa::kAvx2:
      return kAvx2KernelsF32;
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Bf16:
      return kAvx512KernelsF32;
  }
  return kSse4KernelsF32;
}

class CpuDevice final : public Device {
 public:
  CpuDevice(DeviceInfo info, CpuIsa isa, bool onednn)
      : info_(std::move(info)),
        kernels_(KernelsFor(isa, info_.compute_dtype)),
        element_bytes_(SizeOf(info_.compute_dtype)),
        memory_(info_.memory_bytes),
        team_(info_.threads, /*openmp=*/onednn),
        strips_(info_.threads),
        attention_(kernels_, info_.compute_dtype, team_),
        sampler_(kernels_, team_) {
    if (onednn) onednn_ = std::make_unique<OneDnnProducts>(info_.compute_dtype, info_.threads);
  }

  const DeviceInfo& info() const override { return info_; }
  absl::Status status() const override { return onednn_ == nullptr ? absl::OkStatus() : onednn_->status(); }

  absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what) override {
    SPILLWAY_RETURN_IF_ERROR(status());
    return memory_.Allocate(size_bytes, what);
  }
  void Free(DevicePtr ptr) override { memory_.Free(ptr); }
  int64_t allocated_bytes() const override { return memory_.allocated_bytes(); }
  // All host memory is as good as any.
  absl::Status RegisterHost(void*, int64_t) override { return status(); }
  void UnregisterHost(void*) override {}
  DevicePtr HostAddress(const void* data) const override { return AddressOf(data); }

  StreamId CreateStream(absl::string_view) override { return static_cast<StreamId>(n_streams_++); }
  EventId CreateEvent() override;
  void Record(EventId event, StreamId stream) override;
  void Wait(StreamId stream, EventId event) override;
  bool IsComplete(EventId event) override { return RecordedNs(event) != kNeverRecorded; }
  absl::Status Synchronize(EventId event) override;
  int64_t ElapsedNs(EventId begin, EventId end) override;

  void CopyIn(StreamId, DevicePtr destination, const void* source, int64_t size_bytes) override {
    Copy(At<void>(destination), source, size_bytes);
  }
  void CopyOut(StreamId, void* destination, DevicePtr source, int64_t size_bytes) override {
    Copy(destination, At<const void>(source), size_bytes);
  }
  void CopyWithin(StreamId, DevicePtr destination, DevicePtr source, int64_t size_bytes) override {
    Copy(At<void>(destination), At<const void>(source), size_bytes);
  }
  void CopyInBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    for (const CopyRun& run : runs) CopyIn(stream, run.device, run.host, run.size_bytes);
  }
  void CopyOutBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    for (const CopyRun& run : runs) CopyOut(stream, run.host, run.device, run.size_bytes);
  }
  void Fill(StreamId, DevicePtr destination, uint8_t value, int64_t size_bytes) override {
    if (Failed() || size_bytes == 0) return;
    std::memset(At<void>(destination), value, static_cast<size_t>(size_bytes));
  }

  absl::StatusOr<PackedMatrix> PlanMatrix(absl::Span<const TensorView> parts,
                                          WeightMode mode) const override {
    return PlanPanels(parts, mode, info_.compute_dtype);
  }
  absl::StatusOr<PackedMatrix> PlanTable(const TensorView& table, WeightMode) const override {
    return PlanExpandedRows({&table, 1}, info_.compute_dtype);
  }
  absl::Status PackMatrix(absl::Span<const TensorView> parts, const PackedMatrix& plan,
                          void* packed) const override {
    if (plan.is_table) {
      PackExpandedRows(parts, info_.compute_dtype, packed);
      return absl::OkStatus();
    }
    PackPanels(parts, plan, info_.threads, packed);
    return absl::OkStatus();
  }
  absl::StatusOr<PackedMatrix> SliceMatrix(const PackedMatrix& matrix, int64_t first,
                                           int64_t n) const override {
    return SlicePanels(matrix, first, n, info_.compute_dtype);
  }

  void Embed(StreamId stream, const EmbedArgs& args) override;
  void AddNorm(StreamId stream, const AddNormArgs& args) override;
  void Gemm(StreamId stream, const PackedMatrix& weight, const GemmArgs& args) override;
  void RopeAppend(StreamId stream, const RopeAppendArgs& args) override;
  void GatedActivation(StreamId stream, const GatedActivationArgs& args) override;
  void PartialAttention(StreamId, const PartialAttentionArgs& args) override {
    if (!Failed()) attention_.Partial(args);
  }
  void MergeAttention(StreamId, const MergeAttentionArgs& args) override {
    if (!Failed()) attention_.Merge(args);
  }
  void Sample(StreamId, const SampleArgs& args) override {
    if (!Failed()) sampler_.Sample(args);
  }
  absl::Status WarmUp(absl::Span<const PackedMatrix> weights, absl::Span<const int32_t> rows) override;

 private:
  static constexpr int64_t kNeverRecorded = -1;

  bool Failed() const { return onednn_ != nullptr && onednn_->failed(); }
  int64_t RecordedNs(EventId event) const {
    const size_t index = static_cast<size_t>(event);
    SPILLWAY_CHECK_MSG(index < events_.size(), "no such event");
    return events_[index];
  }
  void Copy(void* destination, const void* source, int64_t size_bytes) {
    SPILLWAY_CHECK(size_bytes >= 0);
    if (Failed() || size_bytes == 0) return;
    std::memmove(destination, source, static_cast<size_t>(size_bytes));
  }
  PanelRun PanelsOf(const PackedMatrix* matrix) const {
    if (matrix == nullptr) return {};
    const int64_t panels = (matrix->n + kPanelColumns - 1) / kPanelColumns;
    return {At<const uint8_t>(matrix->data), panels, matrix->size_bytes / panels};
  }
  // Row `row` of a matrix of T with `width` columns.
  uint8_t* RowOf(DevicePtr matrix, int64_t row, int64_t width) const {
    return At<uint8_t>(matrix) + row * width * element_bytes_;
  }

  const DeviceInfo info_;
  const Kernels& kernels_;
  const int64_t element_bytes_;
  HostMemory memory_;
  int32_t n_streams_ = 0;
  std::vector<int64_t> events_;             // when each was last recorded
  std::unique_ptr<OneDnnProducts> onednn_;  // or null
  ThreadTeam team_;
  StripQueue strips_;
  CpuAttention attention_;
  CpuSampler sampler_;
};

EventId CpuDevice::CreateEvent() {
  events_.push_back(kNeverRecorded);
  return static_cast<EventId>(events_.size() - 1);
}

void CpuDevice::Record(EventId event, StreamId) {
  (void)RecordedNs(event);
  events_[static_cast<size_t>(event)] = std::chrono::duration_cast<std::chrono::nanoseconds>(
                                            std::chrono::steady_clock::now().time_since_epoch())
                                            .count();
}

void CpuDevice::Wait(StreamId, EventId event) {
  SPILLWAY_CHECK_MSG(RecordedNs(event) != kNeverRecorded, "a wait on an event that was never recorded");
}

absl::Status CpuDevice::Synchronize(EventId event) {
  SPILLWAY_CHECK_MSG(RecordedNs(event) != kNeverRecorded, "a wait on an event that was never recorded");
  return status();
}

int64_t CpuDevice::ElapsedNs(EventId begin, EventId end) {
  SPILLWAY_CHECK(IsComplete(begin) && IsComplete(end));
  return RecordedNs(end) - RecordedNs(begin);
}

void CpuDevice::Embed(StreamId, const EmbedArgs& args) {
  SPILLWAY_CHECK_MSG(!args.positions || args.append, "learned positions need the rows' positions");
  SPILLWAY_CHECK_MSG(IsPlain(args.encoding), "the CPU device reads expanded tables");
  if (Failed()) return;
  const AppendRow* append = At<const AppendRow>(args.append);
  const int32_t* ids = At<const int32_t>(args.ids);
  team_.Ranges(
      int64_t{args.rows} * args.d >= kSerialElements, args.rows, [&](int64_t begin, int64_t end, int32_t) {
        for (int64_t r = begin; r < end; ++r) {
          const void* position = args.positions ? RowOf(args.positions, append[r].position, args.d) : nullptr;
          kernels_.embed(RowOf(args.table, ids[r], args.d), args.scale, position, args.d,
                         At<float>(args.hidden) + r * args.d);
        }
      });
}

void CpuDevice::AddNorm(StreamId, const AddNormArgs& args) {
  SPILLWAY_CHECK_MSG(!args.addend || !args.row_index, "rows are added in place or chosen, not both");
  if (Failed()) return;
  const int32_t* row_index = At<const int32_t>(args.row_index);
  team_.Ranges(int64_t{args.rows} * args.d >= kSerialElements, args.rows,
               [&](int64_t begin, int64_t end, int32_t) {
                 for (int64_t r = begin; r < end; ++r) {
                   const int64_t source = row_index == nullptr ? r : row_index[r];
                   NormRow row;
                   row.kind = args.kind;
                   row.d = args.d;
                   row.epsilon = args.epsilon;
                   row.hidden = At<float>(args.hidden) + source * args.d;
                   row.addend = args.addend ? RowOf(args.addend, r, args.d) : nullptr;
                   row.gain = At<const float>(args.gain);
                   row.bias = At<const float>(args.bias);
                   row.out = RowOf(args.out, r, args.d);
                   kernels_.add_norm(row);
                 }
               });
}

void CpuDevice::Gemm(StreamId, const PackedMatrix& weight, const GemmArgs& args) {
  SPILLWAY_CHECK_MSG(
      weight.encoding == (info_.compute_dtype == DType::kF32 ? Encoding::kF32 : Encoding::kBF16),
      "the matrix was not packed by this device");
  SPILLWAY_CHECK(args.out_dtype == DType::kF32 || args.out_dtype == info_.compute_dtype);
  SPILLWAY_CHECK(!args.accumulate || (args.out_dtype == DType::kF32 && args.activation == Activation::kNone));
  if (Failed()) return;
  ProductArgs product;
  product.rows = args.rows;
  product.n = weight.n;
  product.k = weight.k;
  product.panel_stride = PanelStride(info_.compute_dtype, weight.k);
  product.in = At<const void>(args.in);
  product.weight = At<const void>(weight.data);
  product.out = At<void>(args.out);
  product.bias = At<const float>(args.bias);
  product.activation = args.activation;
  product.out_is_f32 = args.out_dtype == DType::kF32;
  product.accumulate = args.accumulate;
  while (onednn_ != nullptr && product.rows > 0) {
    const int64_t done = onednn_->Multiply(product);
    if (done == 0) break;
    product.rows -= done;
    product.in = static_cast<const uint8_t*>(product.in) + done * weight.k * element_bytes_;
    product.out = static_cast<uint8_t*>(product.out) + done * weight.n * SizeOf(args.out_dtype);
  }
  if (product.rows == 0 || Failed()) return;
  const int64_t strips = (weight.n + kStripColumns - 1) / kStripColumns;
  if (product.rows * weight.n * weight.k < kSerialMultiplications) {
    kernels_.product(product, 0, strips);
    return;
  }
  strips_.Reset(strips);
  team_.Run(
      [&](int32_t thread) {
        for (StripQueue::Strips some = strips_.Take(thread); some.begin < some.end;
             some = strips_.Take(thread)) {
          kernels_.product(product, some.begin, some.end);
        }
      },
      PanelsOf(args.next));
}

void CpuDevice::RopeAppend(StreamId, const RopeAppendArgs& args) {
  SPILLWAY_CHECK(args.d_head > 0 && args.d_head <= kMaxHeadDim);
  SPILLWAY_CHECK(args.rope_dims >= 0 && args.rope_dims <= args.d_head && args.rope_dims % 2 == 0);
  if (Failed()) return;
  SPILLWAY_CHECK(args.append || (args.block_positions && !args.x));
  const AppendRow* append = At<const AppendRow>(args.append);
  const int32_t* block_positions = At<const int32_t>(args.block_positions);
  const auto target_of = [&](int64_t r) {
    if (append != nullptr) return append[r];
    const auto block = static_cast<int32_t>(r / args.block_tokens);
    const auto offset = static_cast<int32_t>(r % args.block_tokens);
    return AppendRow{2 * block, 2 * block + 1, -1, offset, block_positions[block] + offset};
  };
  const int64_t width = int64_t{args.n_heads + 2 * args.n_kv_heads} * args.d_head;
  const int64_t head_bytes = args.d_head * element_bytes_;
  const bool rotate = args.style != RopeStyle::kNone && args.rope_dims > 0;
  const auto plane = [&](int32_t slot) {
    return At<uint8_t>(args.arena.base) + slot * args.arena.slot_bytes;
  };
  team_.Ranges(args.rows * width >= kSerialActivations, args.rows, [&](int64_t begin, int64_t end, int32_t) {
    alignas(64) float cosine[kMaxHeadDim];
    alignas(64) float sine[kMaxHeadDim];
    const RopeTable table{args.style, rotate ? args.rope_dims : 0, cosine, sine};
    for (int64_t r = begin; r < end; ++r) {
      const AppendRow target = target_of(r);
      uint8_t* head = RowOf(args.qkv, r, width);
      if (rotate) {
        kernels_.fill_rope_table(args.style, args.rope_dims, At<const float>(args.inverse_frequency),
                                 target.position, cosine, sine);
        for (int32_t h = 0; h < args.n_heads; ++h)
          kernels_.rope(table, args.d_head, head + h * head_bytes, head + h * head_bytes);
      }
      head += args.n_heads * head_bytes;
      for (int32_t h = 0; h < args.n_kv_heads; ++h, head += head_bytes) {
        const int64_t at = (int64_t{h} * args.block_tokens + target.offset_tokens) * head_bytes;
        kernels_.rope(table, args.d_head, head, plane(target.k_slot) + at);
        std::memcpy(plane(target.v_slot) + at, head + args.n_kv_heads * head_bytes,
                    static_cast<size_t>(head_bytes));
      }
      if (args.x && target.x_slot >= 0) {
        const int64_t x_bytes = args.d * element_bytes_;
        std::memcpy(plane(target.x_slot) + target.offset_tokens * x_bytes, RowOf(args.x, r, args.d),
                    static_cast<size_t>(x_bytes));
      }
    }
  });
}

void CpuDevice::GatedActivation(StreamId, const GatedActivationArgs& args) {
  if (Failed()) return;
  team_.Ranges(int64_t{args.rows} * args.d_ff >= kSerialActivations, args.rows,
               [&](int64_t begin, int64_t end, int32_t) {
                 for (int64_t r = begin; r < end; ++r) {
                   kernels_.gate(args.activation, args.d_ff, RowOf(args.gate_up, r, 2 * int64_t{args.d_ff}),
                                 RowOf(args.out, r, args.d_ff));
                 }
               });
}

absl::Status CpuDevice::WarmUp(absl::Span<const PackedMatrix> weights, absl::Span<const int32_t> rows) {
  if (onednn_ == nullptr || rows.empty()) return status();
  const int32_t most = *std::max_element(rows.begin(), rows.end());
  for (const PackedMatrix& weight : weights)
    SPILLWAY_RETURN_IF_ERROR(onednn_->Prepare(weight.n, weight.k, most));
  return status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(const CpuDeviceOptions& options) {
  const CpuIsa best = DetectCpuIsa();
  const CpuIsa isa = options.isa.value_or(best);
  if (isa > best) {
    return absl::InvalidArgumentError(absl::StrCat("this processor (", ProcessorName(), ") has no ",
                                                   std::string(NameOf(isa)), "; its best is ",
                                                   std::string(NameOf(best))));
  }
  const bool has_bf16 = isa == CpuIsa::kAvx512Bf16;
  const DType dtype = options.dtype.value_or(has_bf16 ? DType::kBF16 : DType::kF32);
  if (dtype == DType::kF16 || (dtype == DType::kBF16 && !has_bf16)) {
    return absl::InvalidArgumentError(absl::StrCat("the CPU device does not compute in ", NameOf(dtype),
                                                   " with ", std::string(NameOf(isa)),
                                                   " instructions; use f32"));
  }
  if (options.threads < 0 || options.memory_bytes < 0) {
    return absl::InvalidArgumentError("the CPU device's threads and memory cannot be negative");
  }
  // Without AVX-512 oneDNN has no product that reads our panels; f32 has none in AMX.
  if (options.onednn.value_or(false) && isa < CpuIsa::kAvx512) {
    return absl::InvalidArgumentError("products through oneDNN need AVX-512");
  }
  const bool onednn = options.onednn.value_or(dtype == DType::kBF16 && HasAmxBf16());
  const CpuIsa used = dtype == DType::kF32 ? std::min(isa, CpuIsa::kAvx512) : isa;
  DeviceInfo info;
  info.kind = "cpu";
  info.isa = std::string(NameOf(used));
  info.threads = options.threads > 0 ? options.threads : UsableThreads();
  info.name =
      absl::StrCat(ProcessorName(), " (", info.threads, info.threads == 1 ? " thread, " : " threads, ",
                   info.isa, onednn ? ", oneDNN)" : ")");
  info.host_addressable = true;
  info.memory_bytes = options.memory_bytes > 0 ? options.memory_bytes : HostMemoryBytes();
  info.compute_dtype = dtype;
  return std::make_unique<CpuDevice>(std::move(info), isa, onednn);
}

}  // namespace spillway::device
