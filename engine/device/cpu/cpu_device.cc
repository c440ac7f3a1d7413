#include "engine/device/cpu/cpu_device.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cpu/simple_ops.h"

namespace spillway::device {
namespace {

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(DeviceInfo info) : info_(std::move(info)) {}
  ~CpuDevice() override {
    for (auto& [address, size] : allocations_) std::free(reinterpret_cast<void*>(address));
  }
  const DeviceInfo& info() const override { return info_; }
  absl::Status status() const override { return absl::OkStatus(); }

  absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what) override {
    SPILLWAY_CHECK(size_bytes >= 0);
    if (size_bytes > info_.memory_bytes - allocated_bytes_) {
      return absl::ResourceExhaustedError(absl::StrCat(what, " needs ", FormatBytes(size_bytes),
                                                       " of device memory, ",
                                                       FormatBytes(info_.memory_bytes - allocated_bytes_),
                                                       " of ", FormatBytes(info_.memory_bytes), " is left"));
    }
    const size_t rounded = (static_cast<size_t>(size_bytes) + 255) / 256 * 256 + 256;
    void* memory = std::aligned_alloc(256, rounded);
    if (memory == nullptr) return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
    allocations_[reinterpret_cast<uint64_t>(memory)] = size_bytes;
    allocated_bytes_ += size_bytes;
    return DevicePtr{reinterpret_cast<uint64_t>(memory)};
  }
  void Free(DevicePtr ptr) override {
    if (!ptr) return;
    const auto it = allocations_.find(ptr.address);
    SPILLWAY_CHECK_MSG(it != allocations_.end(), "freeing what was not allocated");
    allocated_bytes_ -= it->second;
    allocations_.erase(it);
    std::free(reinterpret_cast<void*>(ptr.address));
  }
  int64_t allocated_bytes() const override { return allocated_bytes_; }
  absl::Status RegisterHost(void*, int64_t) override { return absl::OkStatus(); }
  void UnregisterHost(void*) override {}
  DevicePtr HostAddress(const void* data) const override { return {reinterpret_cast<uint64_t>(data)}; }

  StreamId CreateStream(absl::string_view) override { return static_cast<StreamId>(n_streams_++); }
  EventId CreateEvent() override {
    events_.push_back(-1);
    return static_cast<EventId>(events_.size() - 1);
  }
  void Record(EventId event, StreamId) override {
    events_[static_cast<size_t>(event)] = std::chrono::steady_clock::now().time_since_epoch().count();
  }
  void Wait(StreamId, EventId event) override {
    SPILLWAY_CHECK_MSG(events_[static_cast<size_t>(event)] >= 0, "waiting for an event never recorded");
  }
  bool IsComplete(EventId event) override { return events_[static_cast<size_t>(event)] >= 0; }
  absl::Status Synchronize(EventId) override { return absl::OkStatus(); }
  int64_t ElapsedNs(EventId begin, EventId end) override {
    return events_[static_cast<size_t>(end)] - events_[static_cast<size_t>(begin)];
  }

  void CopyIn(StreamId, DevicePtr destination, const void* source, int64_t n) override {
    std::memcpy(reinterpret_cast<void*>(destination.address), source, static_cast<size_t>(n));
  }
  void CopyOut(StreamId, void* destination, DevicePtr source, int64_t n) override {
    std::memcpy(destination, reinterpret_cast<const void*>(source.address), static_cast<size_t>(n));
  }
  void CopyWithin(StreamId, DevicePtr destination, DevicePtr source, int64_t n) override {
    std::memmove(reinterpret_cast<void*>(destination.address), reinterpret_cast<const void*>(source.address),
                 static_cast<size_t>(n));
  }
  void CopyInBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    for (const CopyRun& run : runs) CopyIn(stream, run.device, run.host, run.size_bytes);
  }
  void CopyOutBatch(StreamId stream, absl::Span<const CopyRun> runs) override {
    for (const CopyRun& run : runs) CopyOut(stream, run.host, run.device, run.size_bytes);
  }
  void Fill(StreamId, DevicePtr destination, uint8_t value, int64_t n) override {
    std::memset(reinterpret_cast<void*>(destination.address), value, static_cast<size_t>(n));
  }

  absl::StatusOr<PackedMatrix> PlanMatrix(absl::Span<const TensorView> parts, WeightMode) const override {
    PackedMatrix plan;
    for (const TensorView& part : parts) {
      if (part.shape.size() != 2)
        return absl::InvalidArgumentError(absl::StrCat(part.name, " is not a matrix"));
      plan.n += part.shape[0];
      plan.k = part.shape[1];
    }
    plan.encoding = info_.compute_dtype == DType::kF32 ? Encoding::kF32 : Encoding::kBF16;
    plan.size_bytes = plan.n * plan.k * SizeOf(info_.compute_dtype);
    return plan;
  }
  absl::Status PackMatrix(absl::Span<const TensorView> parts, const PackedMatrix& plan,
                          void* packed) const override {
    std::vector<float> row(plan.k);
    int64_t at = 0;
    for (const TensorView& source : parts) {
      const int64_t row_bytes = EncodedBytes(source.encoding, plan.k);
      for (int64_t i = 0; i < source.shape[0]; ++i) {
        DecodeToF32(source.encoding, source.data + i * row_bytes, plan.k, row.data());
        for (int64_t j = 0; j < plan.k; ++j, ++at) {
          if (plan.encoding == Encoding::kF32) {
            static_cast<float*>(packed)[at] = row[j];
          } else {
            uint32_t bits;
            std::memcpy(&bits, &row[j], 4);
            static_cast<uint16_t*>(packed)[at] =
                static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
          }
        }
      }
    }
    return absl::OkStatus();
  }

#define SPILLWAY_SIMPLE_OP(call)            \
  if (info_.compute_dtype == DType::kF32) { \
    SimpleOps<float>::call;                 \
  } else {                                  \
    SimpleOps<BFloat16>::call;              \
  }
  void Embed(StreamId, const EmbedArgs& args) override { SPILLWAY_SIMPLE_OP(Embed(args)) }
  void AddNorm(StreamId, const AddNormArgs& args) override { SPILLWAY_SIMPLE_OP(AddNorm(args)) }
  void Gemm(StreamId, const PackedMatrix& w, const GemmArgs& args) override {
    SPILLWAY_SIMPLE_OP(Gemm(w, args))
  }
  void RopeAppend(StreamId, const RopeAppendArgs& args) override { SPILLWAY_SIMPLE_OP(RopeAppend(args)) }
  void PartialAttention(StreamId, const PartialAttentionArgs& args) override {
    SPILLWAY_SIMPLE_OP(PartialAttention(args))
  }
  void MergeAttention(StreamId, const MergeAttentionArgs& args) override {
    SPILLWAY_SIMPLE_OP(MergeAttention(args))
  }
  void GatedActivation(StreamId, const GatedActivationArgs& args) override {
    SPILLWAY_SIMPLE_OP(GatedActivation(args))
  }
  void Sample(StreamId, const SampleArgs& args) override { SimpleSample(args); }
  absl::Status WarmUp(absl::Span<const PackedMatrix>, absl::Span<const int32_t>) override {
    return absl::OkStatus();
  }

 private:
  DeviceInfo info_;
  std::map<uint64_t, int64_t> allocations_;
  int64_t allocated_bytes_ = 0;
  int32_t n_streams_ = 0;
  std::vector<int64_t> events_;
};

}  // namespace

CpuIsa DetectCpuIsa() {
  if (__builtin_cpu_supports("avx512bf16")) return CpuIsa::kAvx512Bf16;
  if (__builtin_cpu_supports("avx512bw")) return CpuIsa::kAvx512;
  if (__builtin_cpu_supports("avx2")) return CpuIsa::kAvx2;
  return CpuIsa::kBaseline;
}

absl::StatusOr<std::unique_ptr<Device>> CreateCpuDevice(const CpuDeviceOptions& options) {
  const CpuIsa isa = options.isa.value_or(DetectCpuIsa());
  if (isa > DetectCpuIsa())
    return absl::InvalidArgumentError("this processor lacks the asked instruction set");
  DeviceInfo info;
  info.kind = "cpu";
  info.name = "CPU";
  info.isa = "scalar";
  info.threads = options.threads > 0 ? options.threads : omp_get_max_threads();
  info.host_addressable = true;
  info.memory_bytes = options.memory_bytes > 0 ? options.memory_bytes
                                               : int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  info.compute_dtype = options.dtype.value_or(isa == CpuIsa::kAvx512Bf16 ? DType::kBF16 : DType::kF32);
  return std::make_unique<CpuDevice>(std::move(info));
}

}  // namespace spillway::device
