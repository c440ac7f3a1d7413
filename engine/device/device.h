// Device: what computes. Memory, streams, events, asynchronous copies and the fused operations that a
// transformer layer needs. The transformer, the executors and the profiler are written once over this
// interface; CPU (cpu/) and CUDA (cuda/, a module loaded at run time) implement it.
//
// Everything with a StreamId is asynchronous: it is ordered after what was enqueued on that stream before,
// and nothing else, and its host-side sources must stay untouched until it has run. Device pointers are
// opaque: the host never dereferences one, except where `DeviceInfo::host_addressable` says that device
// memory is host memory.
//
// Lengths, positions and pointer tables are read from device arrays, so that a device may replay a captured
// graph of operations at a bucketed shape. Nothing here allocates after the buffers and weights are in place.
//
// Errors: an operation that cannot be enqueued CHECK-fails on a programmer's mistake (a bad shape); what a
// machine can cause (out of memory, a lost device) is a Status, and the first device error is sticky: every
// later call that returns a Status returns it. Void operations after a sticky error do nothing.
//
// Thread safety: thread-compatible; the engine's step thread makes every call but those of loading.
#ifndef SPILLWAY_ENGINE_DEVICE_DEVICE_H_
#define SPILLWAY_ENGINE_DEVICE_DEVICE_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/ops.h"
#include "engine/device/tensor.h"
#include "engine/device/types.h"

namespace spillway::device {

struct DeviceInfo {
  std::string kind;     // "cpu", "cuda"
  std::string name;     // "AMD EPYC (2 threads, avx512_bf16)"
  std::string isa;      // what the kernels were dispatched to: "avx512_bf16", "avx2", "sm_90"
  int32_t threads = 1;  // CPU: threads that compute
  // Device memory is host memory and no link lies between: the host pool's blocks are read in place and every
  // cached token counts as resident.
  bool host_addressable = false;
  bool emulated_link = false;         // copies are paced by the emulator (results must say so)
  int64_t memory_bytes = 0;           // the budget for Allocate
  DType compute_dtype = DType::kF32;  // activations, K, V and X; weights are multiplied in it
  std::string driver;                 // "CUDA 13.0, driver 580.65"; empty: none
  std::string link;                   // "PCIe 4.0 x16"; empty: none
  int32_t numa_node = -1;  // of the host's memory that its link leads to; -1: not known, or no link
};

// Output features of a matrix from `first` on, up to the next part's, in one encoding.
struct MatrixPart {
  int64_t first = 0;
  Encoding encoding = Encoding::kF32;
};
constexpr int32_t kMatrixPartsMax = 4;

// A weight matrix in the layout that this device's Gemm reads. A value: `data` may lie in resident memory or
// in a streaming slot that the bytes were just copied to.
struct PackedMatrix {
  DevicePtr data;
  int64_t n = 0;  // output features (rows of the file's matrix)
  int64_t k = 0;  // input features
  int64_t size_bytes = 0;
  Encoding encoding = Encoding::kF32;  // of `data`; the device's own layout of it
  // Output features of `data` that come before the first one of these: of a slice, where the layout is read
  // from its beginning.
  int64_t first = 0;
  // What `data` consists of, where the device keeps each part as its file encodes it; else none.
  int32_t n_parts = 0;
  std::array<MatrixPart, kMatrixPartsMax> parts;
  // Rows lie one after the other, of size_bytes / n each: T, or in a packed encoding. Embed reads them.
  bool is_table = false;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceInfo& info() const = 0;
  // The sticky error, or OK.
  virtual absl::Status status() const = 0;

  // --- Memory. Aligned to 256 bytes. ResourceExhausted names what was asked for, by whom, and what is left.
  virtual absl::StatusOr<DevicePtr> Allocate(int64_t size_bytes, absl::string_view what) = 0;
  virtual void Free(DevicePtr ptr) = 0;
  virtual int64_t allocated_bytes() const = 0;
  // Makes host memory usable by asynchronous copies at full rate (page-locks it). The range must outlive its
  // use.
  virtual absl::Status RegisterHost(void* data, int64_t size_bytes) = 0;
  virtual void UnregisterHost(void* data) = 0;
  // The address at which operations may read registered host memory in place. REQUIRES:
  // info().host_addressable.
  virtual DevicePtr HostAddress(const void* data) const = 0;

  // --- Streams and events. Streams are few and live as long as the device.
  virtual StreamId CreateStream(absl::string_view name) = 0;
  virtual EventId CreateEvent() = 0;
  virtual void Record(EventId event, StreamId stream) = 0;
  // Work enqueued on `stream` after this waits for `event`'s last Record. A wait on an event never recorded
  // is a programmer's mistake (CUDA would pass at once) and CHECK-fails on every device.
  virtual void Wait(StreamId stream, EventId event) = 0;
  virtual bool IsComplete(EventId event) = 0;
  // Blocks the calling thread. Returns the sticky error if there is one.
  virtual absl::Status Synchronize(EventId event) = 0;
  // Nanoseconds between two completed events' records, by the device's clock.
  virtual int64_t ElapsedNs(EventId begin, EventId end) = 0;

  // --- Copies. A small CopyIn may read its source when it is called: that is no place which a copy out is
  // still to write.
  virtual void CopyIn(StreamId stream, DevicePtr destination, const void* source, int64_t size_bytes) = 0;
  virtual void CopyOut(StreamId stream, void* destination, DevicePtr source, int64_t size_bytes) = 0;
  virtual void CopyWithin(StreamId stream, DevicePtr destination, DevicePtr source, int64_t size_bytes) = 0;
  // Many copies as one batch, which have no order among themselves and so write to different places; the
  // device chooses between merged runs and a batched call.
  virtual void CopyInBatch(StreamId stream, absl::Span<const CopyRun> runs) = 0;
  virtual void CopyOutBatch(StreamId stream, absl::Span<const CopyRun> runs) = 0;
  virtual void Fill(StreamId stream, DevicePtr destination, uint8_t value, int64_t size_bytes) = 0;

  // --- Weights. Size and layout are this device's choice; packing happens on the host, at load.
  // What `parts`, matrices [n_i, k] stacked along n (q|k|v, gate|up; encodings may differ), will be held as;
  // InvalidArgument where the device cannot multiply it. Reads shapes and encodings, not data.
  virtual absl::StatusOr<PackedMatrix> PlanMatrix(absl::Span<const TensorView> parts,
                                                  WeightMode mode) const = 0;
  // What `table`, [n, k], of which Embed reads rows, will be held as: a looked-up row is decoded, whatever
  // its encoding and length, so kAuto keeps packed all that this device reads so. A device that reads none
  // has rows of T in every mode. A matrix of PlanMatrix may be a table too (`is_table`).
  virtual absl::StatusOr<PackedMatrix> PlanTable(const TensorView& table, WeightMode mode) const = 0;
  // Writes `plan.size_bytes` bytes to `packed` in host memory; thread-safe. REQUIRES: `plan` was made of
  // these parts, or of more rows of which these are some and is a table cut to them (n and size_bytes).
  virtual absl::Status PackMatrix(absl::Span<const TensorView> parts, const PackedMatrix& plan,
                                  void* packed) const = 0;
  // Output features [first, first + n) of `matrix` as a matrix of its own over the same bytes (K and V of a
  // fused q|k|v). InvalidArgument where the device's layout cannot be cut there; SliceMatrix(m, 0, m.n) is m.
  virtual absl::StatusOr<PackedMatrix> SliceMatrix(const PackedMatrix& matrix, int64_t first,
                                                   int64_t n) const = 0;

  // --- Operations (engine/device/ops.h documents shapes and formulas).
  virtual void Embed(StreamId stream, const EmbedArgs& args) = 0;
  virtual void AddNorm(StreamId stream, const AddNormArgs& args) = 0;
  virtual void Gemm(StreamId stream, const PackedMatrix& weight, const GemmArgs& args) = 0;
  virtual void RopeAppend(StreamId stream, const RopeAppendArgs& args) = 0;
  virtual void PartialAttention(StreamId stream, const PartialAttentionArgs& args) = 0;
  virtual void MergeAttention(StreamId stream, const MergeAttentionArgs& args) = 0;
  virtual void GatedActivation(StreamId stream, const GatedActivationArgs& args) = 0;
  virtual void Sample(StreamId stream, const SampleArgs& args) = 0;

  // Builds whatever is built lazily (primitives, heuristics) for `rows` rows of these weights, so that the
  // first request does not pay for it.
  virtual absl::Status WarmUp(absl::Span<const PackedMatrix> weights, absl::Span<const int32_t> rows) = 0;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_DEVICE_H_
