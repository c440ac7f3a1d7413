#include "engine/device/cuda/cuda_device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cuda/address.h"
#include "engine/device/cuda/batch_copies.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/device/cuda/device_memory.h"
#include "engine/device/cuda/gpu.h"
#include "engine/device/cuda/host_ranges.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/matrix_layout.h"
#include "engine/device/cuda/pinned_slots.h"
#include "engine/device/cuda/products.h"
#include "engine/device/cuda/sample_batches.h"
#include "engine/device/cuda/staged_copies.h"
#include "engine/device/matrix_parts.h"

namespace spillway::device::cuda {
namespace {

// Copies up to kSmallCopyBytes go through the slots, piece by piece.
constexpr int32_t kCopySlots = 64;
constexpr int64_t kCopySlotBytes = 32 * kKiB;
constexpr int64_t kSmallCopyBytes = 8 * kCopySlotBytes;

class CudaDevice final : public Device {
 public:
  // Takes what the device needs for itself.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Create(DeviceInfo info, const Gpu& gpu,
                                                            const CudaDeviceOptions& options);
  ~CudaDevice() override;

  const DeviceInfo& info() const override { return info_; }
  absl::Status status() const override { return error_.status(); }

  absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what) override {
    SPILLWAY_RETURN_IF_ERROR(status());
    return memory_.Allocate(size_bytes, what);
  }
  void Free(DevicePtr ptr) override { memory_.Free(ptr); }
  int64_t allocated_bytes() const override { return memory_.allocated_bytes(); }
  absl::Status RegisterHost(void* data, int64_t size_bytes) override {
    SPILLWAY_RETURN_IF_ERROR(status());
    absl::Status registered = host_ranges_.Register(data, size_bytes);
    return registered.ok() ? registered : StageCopies(registered);
  }
  void UnregisterHost(void* data) override { host_ranges_.Unregister(data); }
  DevicePtr HostAddress(const void*) const override {
    SPILLWAY_CHECK_MSG(false, "a GPU does not read the host's memory in place");
    return {};
  }

  StreamId CreateStream(absl::string_view name) override;
  EventId CreateEvent() override;
  void Record(EventId event, StreamId stream) override;
  void Wait(StreamId stream, EventId event) override;
  bool IsComplete(EventId event) override;
  absl::Status Synchronize(EventId event) override;
  int64_t ElapsedNs(EventId begin, EventId end) override;

  void CopyIn(StreamId stream, DevicePtr destination, const void* source, int64_t size_bytes) override;
  void CopyOut(StreamId stream, void* destination, DevicePtr source, int64_t size_bytes) override;
  void CopyWithin(StreamId stream, DevicePtr destination, DevicePtr source, int64_t size_bytes) override;
  void CopyInBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    CopyBatch(stream, runs, BatchCopies::Direction::kIn);
  }
  void CopyOutBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    CopyBatch(stream, runs, BatchCopies::Direction::kOut);
  }
  void Fill(StreamId stream, DevicePtr destination, uint8_t value, int64_t size_bytes) override;

  absl::StatusOr<PackedMatrix> PlanMatrix(absl::Span<const TensorView> parts,
                                          WeightMode mode) const override {
    return PlanRows(parts, mode, info_.compute_dtype);
  }
  absl::StatusOr<PackedMatrix> PlanTable(const TensorView& table, WeightMode mode) const override {
    return PlanTableRows(table, mode, info_.compute_dtype);
  }
  absl::Status PackMatrix(absl::Span<const TensorView> parts, const PackedMatrix& plan,
                          void* packed) const override {
    PackRows(parts, plan, info_.compute_dtype, packed);
    return absl::OkStatus();
  }
  absl::StatusOr<PackedMatrix> SliceMatrix(const PackedMatrix& matrix, int64_t first,
                                           int64_t n) const override {
    return SliceRows(matrix, first, n);
  }

  void Embed(StreamId stream, const EmbedArgs& args) override;
  void AddNorm(StreamId stream, const AddNormArgs& args) override;
  void Gemm(StreamId stream, const PackedMatrix& weight, const GemmArgs& args) override;
  void RopeAppend(StreamId stream, const RopeAppendArgs& args) override;
  void PartialAttention(StreamId stream, const PartialAttentionArgs& args) override;
  void MergeAttention(StreamId stream, const MergeAttentionArgs& args) override;
  void GatedActivation(StreamId stream, const GatedActivationArgs& args) override;
  void Sample(StreamId stream, const SampleArgs& args) override;

  absl::Status WarmUp(absl::Span<const PackedMatrix> weights, absl::Span<const int32_t> rows) override;

 private:
  struct Event {
    cudaEvent_t handle;
    bool recorded;
  };

  CudaDevice(DeviceInfo info, const Gpu& gpu, const CudaDeviceOptions& options)
      : info_(std::move(info)),
        processors_(gpu.processors),
        reaches_host_addresses_(gpu.reaches_host_addresses),
        kernels_overlap_(options.overlap_kernels && gpu.kernels_can_overlap),
        scratch_bytes_(options.scratch_bytes),
        memory_(info_.memory_bytes),
        host_ranges_(options.registered_at_once_bytes) {}

  cudaStream_t StreamOf(StreamId stream) const {
    const size_t index = static_cast<size_t>(stream);
    SPILLWAY_CHECK_MSG(index < streams_.size(), "no such stream");
    return streams_[index];
  }
  KernelStream KernelsOn(cudaStream_t stream) {
    const auto copied = std::find(ending_in_copies_.begin(), ending_in_copies_.end(), stream);
    if (copied == ending_in_copies_.end()) return {stream, kernels_overlap_};
    ending_in_copies_.erase(copied);
    return {stream, false};
  }
  // Copies and fills may be kernels.
  void MarkCopied(cudaStream_t stream) {
    const auto end = ending_in_copies_.end();
    if (std::find(ending_in_copies_.begin(), end, stream) == end) ending_in_copies_.push_back(stream);
  }
  Event& EventOf(EventId event) {
    const size_t index = static_cast<size_t>(event);
    SPILLWAY_CHECK_MSG(index < events_.size(), "no such event");
    return events_[index];
  }
  void CopySmall(cudaStream_t stream, DevicePtr destination, const uint8_t* source, int64_t size_bytes);
  void CopyBatch(StreamId stream, absl::Span<const CopyRun> runs, BatchCopies::Direction direction);
  // Copies of memory that is not page-locked are staged from now on, if they can be. `cause`: it was to be
  // locked, and why it is not; returned with what that means.
  absl::Status StageCopies(const absl::Status& cause);
  // Whether there was an error: then who asked may give up the host's memory.
  bool Failed() {
    if (error_.failed() && staged_copies_ != nullptr) staged_copies_->Stop();
    return error_.failed();
  }
  // Operations that use scratch or cuBLASLt's workspace follow one another, whatever their streams.
  bool TakeScratch(cudaStream_t stream);
  void DeliverSamples() { error_.Check(samples_->Deliver()); }

  const DeviceInfo info_;
  const int32_t processors_;
  const bool reaches_host_addresses_;
  const bool kernels_overlap_;
  const int64_t scratch_bytes_;
  StickyError error_;
  DeviceMemory memory_;
  HostRanges host_ranges_;
  std::vector<cudaStream_t> streams_;
  // In which something was copied behind the last operation, perhaps weights, which products read before they
  // wait for kernels ahead of them.
  std::vector<cudaStream_t> ending_in_copies_;
  std::vector<Event> events_;
  BatchCopies batch_copies_{&host_ranges_};
  std::unique_ptr<StagedCopies> staged_copies_;  // null: all memory that was to be page-locked is
  std::vector<CopyRun> locked_runs_;             // of a batch of which others are staged
  std::vector<CopyRun> staged_runs_;
  void* scratch_ = nullptr;
  cudaStream_t scratch_stream_ = nullptr;  // that used scratch last
  cudaEvent_t scratch_used_ = nullptr;
  std::unique_ptr<PinnedSlots> copy_slots_;
  std::unique_ptr<Products> products_;
  std::unique_ptr<SampleBatches> samples_;
};

absl::StatusOr<std::unique_ptr<CudaDevice>> CudaDevice::Create(DeviceInfo info, const Gpu& gpu,
                                                               const CudaDeviceOptions& options) {
  std::unique_ptr<CudaDevice> device(new CudaDevice(std::move(info), gpu, options));
  // A multiprocessor divides its memory into cache and shared memory anew only when it is idle: kernels
  // overlap where all want the same.
  if (device->kernels_overlap_) {
    SPILLWAY_RETURN_IF_ERROR(
        CudaStatus(cudaDeviceSetCacheConfig(cudaFuncCachePreferShared), "preferring shared memory"));
  }
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(
      cudaMalloc(&device->scratch_, static_cast<size_t>(options.scratch_bytes)), "allocating scratch"));
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(
      cudaEventCreateWithFlags(&device->scratch_used_, cudaEventDisableTiming), "creating an event"));
  SPILLWAY_ASSIGN_OR_RETURN(device->copy_slots_, PinnedSlots::Create(kCopySlots, kCopySlotBytes));
  SPILLWAY_ASSIGN_OR_RETURN(device->products_,
                            Products::Create(device->info_.compute_dtype, options.workspace_bytes,
                                             device->scratch_, options.scratch_bytes, gpu.processors));
  SPILLWAY_ASSIGN_OR_RETURN(device->samples_, SampleBatches::Create(device->scratch_, options.scratch_bytes));
  return device;
}

CudaDevice::~CudaDevice() {
  // What is still enqueued uses what goes now; a device in error has nothing that runs.
  for (cudaStream_t stream : streams_) (void)cudaStreamSynchronize(stream);
  staged_copies_.reset();
  for (const Event& event : events_) (void)cudaEventDestroy(event.handle);
  if (scratch_used_ != nullptr) (void)cudaEventDestroy(scratch_used_);
  for (cudaStream_t stream : streams_) (void)cudaStreamDestroy(stream);
  products_.reset();
  samples_.reset();
  if (scratch_ != nullptr) (void)cudaFree(scratch_);
}

StreamId CudaDevice::CreateStream(absl::string_view name) {
  cudaStream_t stream = nullptr;
  if (!error_.failed()) {
    error_.Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                 absl::StrCat("creating the stream ", name));
  }
  streams_.push_back(stream);
  return static_cast<StreamId>(streams_.size() - 1);
}

EventId CudaDevice::CreateEvent() {
  cudaEvent_t event = nullptr;
  if (!error_.failed()) error_.Check(cudaEventCreate(&event), "creating an event");
  events_.push_back({event, false});
  return static_cast<EventId>(events_.size() - 1);
}

void CudaDevice::Record(EventId event, StreamId stream) {
  Event& recorded = EventOf(event);
  const cudaStream_t on = StreamOf(stream);
  recorded.recorded = true;
  if (error_.failed()) return;
  error_.Check(cudaEventRecord(recorded.handle, on), "recording an event");
}

void CudaDevice::Wait(StreamId stream, EventId event) {
  SPILLWAY_CHECK_MSG(EventOf(event).recorded, "a wait on an event that was never recorded");
  const cudaStream_t waiting = StreamOf(stream);
  if (error_.failed()) return;
  error_.Check(cudaStreamWaitEvent(waiting, EventOf(event).handle, 0), "waiting for an event");
}

bool CudaDevice::IsComplete(EventId event) {
  const Event& asked = EventOf(event);
  if (!asked.recorded) return false;
  // Nothing comes any more from a device in error: who polls goes on, and Synchronize tells why.
  if (Failed()) return true;
  const cudaError_t state = cudaEventQuery(asked.handle);
  if (state == cudaErrorNotReady) return false;
  if (error_.Check(state, "running what was enqueued")) DeliverSamples();
  (void)Failed();
  return true;
}

absl::Status CudaDevice::Synchronize(EventId event) {
  const Event& awaited = EventOf(event);
  SPILLWAY_CHECK_MSG(awaited.recorded, "a wait on an event that was never recorded");
  if (!error_.failed() && error_.Check(cudaEventSynchronize(awaited.handle), "running what was enqueued")) {
    DeliverSamples();
  }
  (void)Failed();
  return error_.status();
}

int64_t CudaDevice::ElapsedNs(EventId begin, EventId end) {
  SPILLWAY_CHECK(IsComplete(begin) && IsComplete(end));
  if (error_.failed()) return 0;
  float ms = 0;
  error_.Check(cudaEventElapsedTime(&ms, EventOf(begin).handle, EventOf(end).handle), "reading event times");
  return std::llround(static_cast<double>(ms) * 1e6);
}

void CudaDevice::CopyWithin(StreamId stream, DevicePtr destination, DevicePtr source, int64_t size_bytes) {
  SPILLWAY_CHECK(size_bytes >= 0);
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed() || size_bytes == 0) return;
  MarkCopied(on);
  error_.Check(cudaMemcpyAsync(At<void>(destination), At<const void>(source), static_cast<size_t>(size_bytes),
                               cudaMemcpyDeviceToDevice, on),
               "copying");
}

absl::Status CudaDevice::StageCopies(const absl::Status& cause) {
  std::string means = "who copies from or to it waits meanwhile";
  if (staged_copies_ == nullptr) {
    absl::StatusOr<std::unique_ptr<StagedCopies>> staged = StagedCopies::Create();
    if (staged.ok()) {
      staged_copies_ = *std::move(staged);
    } else {
      absl::StrAppend(&means, ", as there is not even room for a ring (", staged.status().message(), ")");
    }
  }
  if (staged_copies_ != nullptr) {
    means = absl::StrCat("copies of it go through a ring of ", FormatBytes(staged_copies_->ring_bytes()),
                         " that is page-locked");
  }
  return absl::Status(cause.code(), absl::StrCat(cause.message(), "; ", means));
}

void CudaDevice::CopyOut(StreamId stream, void* destination, DevicePtr source, int64_t size_bytes) {
  SPILLWAY_CHECK(size_bytes >= 0);
  CopyBatch(stream, {{source, destination, size_bytes}}, BatchCopies::Direction::kOut);
}

void CudaDevice::CopyIn(StreamId stream, DevicePtr destination, const void* source, int64_t size_bytes) {
  if (size_bytes > kSmallCopyBytes) {
    CopyBatch(stream, {{destination, const_cast<void*>(source), size_bytes}}, BatchCopies::Direction::kIn);
    return;
  }
  SPILLWAY_CHECK(size_bytes >= 0);
  CopySmall(StreamOf(stream), destination, static_cast<const uint8_t*>(source), size_bytes);
}

void CudaDevice::CopySmall(cudaStream_t stream, DevicePtr destination, const uint8_t* source,
                           int64_t size_bytes) {
  const KernelStream kernels = KernelsOn(stream);
  MarkCopied(stream);
  for (int64_t done = 0; done < size_bytes && !error_.failed();) {
    absl::StatusOr<PinnedSlots::Slot> slot = copy_slots_->Take();
    if (!error_.Check(slot.status())) return;
    const int64_t bytes = std::min(size_bytes - done, kCopySlotBytes);
    std::memcpy(slot->host, source + done, static_cast<size_t>(bytes));
    if (!error_.Check(LaunchCopy(At<void>(destination + done), slot->device, bytes, kernels), "copying in")) {
      return;
    }
    error_.Check(copy_slots_->Release(slot->index, stream));
    done += bytes;
  }
}

void CudaDevice::CopyBatch(StreamId stream, absl::Span<const CopyRun> runs,
                           BatchCopies::Direction direction) {
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed()) return;
  if (direction == BatchCopies::Direction::kIn) MarkCopied(on);
  staged_runs_.clear();
  locked_runs_.clear();
  for (const CopyRun& run : runs) {
    if (run.size_bytes == 0) continue;
    (host_ranges_.Contains(run.host, run.size_bytes) ? locked_runs_ : staged_runs_).push_back(run);
  }
  bool page_locked = staged_runs_.empty();
  if (!page_locked && staged_copies_ != nullptr) {
    if (!error_.Check(staged_copies_->Enqueue(staged_runs_, direction, on))) return;
    runs = locked_runs_;
    page_locked = true;
  }
  error_.Check(batch_copies_.Enqueue(runs, page_locked && reaches_host_addresses_, direction, on),
               "copying a batch");
}

void CudaDevice::Fill(StreamId stream, DevicePtr destination, uint8_t value, int64_t size_bytes) {
  SPILLWAY_CHECK(size_bytes >= 0);
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed() || size_bytes == 0) return;
  MarkCopied(on);
  error_.Check(cudaMemsetAsync(At<void>(destination), value, static_cast<size_t>(size_bytes), on), "filling");
}

bool CudaDevice::TakeScratch(cudaStream_t stream) {
  if (error_.failed()) return false;
  if (scratch_stream_ != nullptr && scratch_stream_ != stream) {
    if (!error_.Check(cudaEventRecord(scratch_used_, scratch_stream_), "recording an event") ||
        !error_.Check(cudaStreamWaitEvent(stream, scratch_used_, 0), "waiting for scratch")) {
      return false;
    }
  }
  scratch_stream_ = stream;
  return true;
}

void CudaDevice::Embed(StreamId stream, const EmbedArgs& args) {
  SPILLWAY_CHECK_MSG(!args.positions || args.append, "learned positions need the rows' positions");
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed() || args.rows == 0) return;
  if (IsPlain(args.encoding)) {
    error_.Check(LaunchEmbed(info_.compute_dtype, args, KernelsOn(on)), "embedding");
    return;
  }
  PackedMatrix table;
  table.data = args.table;
  table.k = args.d;
  table.encoding = args.encoding;
  table.n_parts = 1;
  table.parts[0] = {0, args.encoding};
  error_.Check(LaunchEmbedPacked(info_.compute_dtype, RowsOf(table), args, KernelsOn(on)), "embedding");
}

void CudaDevice::AddNorm(StreamId stream, const AddNormArgs& args) {
  SPILLWAY_CHECK_MSG(!args.addend || !args.row_index, "rows are added in place or chosen, not both");
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed() || args.rows == 0) return;
  error_.Check(LaunchAddNorm(info_.compute_dtype, args, KernelsOn(on)), "normalising");
}

void CudaDevice::Gemm(StreamId stream, const PackedMatrix& weight, const GemmArgs& args) {
  SPILLWAY_CHECK_MSG(weight.encoding == EncodingOf(info_.compute_dtype) || !IsPlain(weight.encoding),
                     "the matrix was not packed by this device");
  SPILLWAY_CHECK(args.out_dtype == DType::kF32 || args.out_dtype == info_.compute_dtype);
  SPILLWAY_CHECK(!args.accumulate || (args.out_dtype == DType::kF32 && args.activation == Activation::kNone));
  const cudaStream_t on = StreamOf(stream);
  if (args.rows > 0 && TakeScratch(on)) error_.Check(products_->Multiply(weight, args, KernelsOn(on)));
}

void CudaDevice::RopeAppend(StreamId stream, const RopeAppendArgs& args) {
  SPILLWAY_CHECK(args.d_head > 0 && args.d_head <= kHeadElementsMax);
  SPILLWAY_CHECK(args.rope_dims >= 0 && args.rope_dims <= args.d_head && args.rope_dims % 2 == 0);
  SPILLWAY_CHECK(args.append || (args.block_positions && !args.x));
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed() || args.rows == 0) return;
  error_.Check(LaunchRopeAppend(info_.compute_dtype, args, KernelsOn(on)), "rotating and appending");
}

void CudaDevice::PartialAttention(StreamId stream, const PartialAttentionArgs& args) {
  SPILLWAY_CHECK(args.n_kv_heads > 0 && args.n_heads % args.n_kv_heads == 0 && args.block_tokens > 0);
  SPILLWAY_CHECK_MSG(args.d_head > 0 && args.d_head <= kHeadElementsMax,
                     "heads of this size are not supported");
  const cudaStream_t on = StreamOf(stream);
  if (args.n_sequences == 0 || !TakeScratch(on)) return;
  const AttentionScratch scratch{static_cast<float*>(scratch_), scratch_bytes_, processors_};
  error_.Check(LaunchPartialAttention(info_.compute_dtype, args, scratch, KernelsOn(on)), "attending");
}

void CudaDevice::MergeAttention(StreamId stream, const MergeAttentionArgs& args) {
  SPILLWAY_CHECK(args.n_parts >= 1 && args.d_head > 0 && args.d_head <= kHeadElementsMax);
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed() || args.rows == 0) return;
  error_.Check(LaunchMergeAttention(info_.compute_dtype, args, KernelsOn(on)), "merging attention");
}

void CudaDevice::GatedActivation(StreamId stream, const GatedActivationArgs& args) {
  const cudaStream_t on = StreamOf(stream);
  if (error_.failed() || args.rows == 0) return;
  error_.Check(LaunchGatedActivation(info_.compute_dtype, args, KernelsOn(on)), "activating");
}

void CudaDevice::Sample(StreamId stream, const SampleArgs& args) {
  const cudaStream_t on = StreamOf(stream);
  if (args.rows > 0 && TakeScratch(on)) error_.Check(samples_->Enqueue(args, KernelsOn(on)));
}

absl::Status CudaDevice::WarmUp(absl::Span<const PackedMatrix> weights, absl::Span<const int32_t> rows) {
  SPILLWAY_RETURN_IF_ERROR(status());
  for (const PackedMatrix& weight : weights) {
    for (const int32_t height : rows) {
      if (!error_.Check(products_->Prepare(weight, height))) return status();
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions& options) {
  if (options.memory_bytes < 0 || options.scratch_bytes <= 0 || options.workspace_bytes <= 0 ||
      options.registered_at_once_bytes <= 0) {
    return absl::InvalidArgumentError("the CUDA device's memory, scratch and workspace cannot be negative");
  }
  SPILLWAY_ASSIGN_OR_RETURN(const Gpu gpu, FindGpu(options.pci_devices));
  DeviceInfo info;
  info.kind = "cuda";
  info.name = gpu.name;
  info.isa = gpu.isa;
  info.driver = gpu.driver;
  info.link = gpu.link;
  info.numa_node = gpu.numa_node;
  info.compute_dtype = options.dtype.value_or(DType::kBF16);
  SPILLWAY_ASSIGN_OR_RETURN(
      info.memory_bytes, UsableBytes(options.memory_bytes, options.scratch_bytes + options.workspace_bytes));
  SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<Device> device,
                            CudaDevice::Create(std::move(info), gpu, options));
  return device;
}

}  // namespace spillway::device::cuda
