#include "bench/gpu_operations.h"

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "profiler/robust_median.h"

namespace spillway::bench {

using device::DevicePtr;

// Device memory for as long as it lives.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(device::Device& device) : device_(device) {}
  ~DeviceBuffer() {
    if (at_) device_.Free(at_);
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  absl::Status Allocate(int64_t size_bytes, absl::string_view what) {
    SPILLWAY_ASSIGN_OR_RETURN(at_, device_.Allocate(size_bytes, what));
    return absl::OkStatus();
  }
  DevicePtr at() const { return at_; }

 private:
  device::Device& device_;
  DevicePtr at_;
};

namespace {

constexpr int64_t kCallsMax = 100;  // in a group: a stream takes some hundreds before the host has to wait
constexpr int kCopiesAhead = 4;
constexpr int kInputs = 4;  // that products take in turn
constexpr double kStallS = 30;
constexpr int64_t kRandomBytes = 32 << 20;

void ShortPause() {
  const timespec pause{0, 20'000};
  nanosleep(&pause, nullptr);
}

// Page-locked host memory for as long as it lives.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(device::Device& device) : device_(device) {}
  ~PinnedBuffer() {
    if (registered_) device_.UnregisterHost(data_);
    if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_bytes_));
  }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  absl::Status Map(int64_t size_bytes) {
    void* const data = mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (data == MAP_FAILED) return absl::ResourceExhaustedError("no host memory to copy from");
    data_ = data;
    size_bytes_ = size_bytes;
    std::memset(data_, 0x3e, static_cast<size_t>(size_bytes));
    const absl::Status registered = device_.RegisterHost(data_, size_bytes);
    registered_ = registered.ok();
    if (registered_) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("host memory cannot be page-locked: ", registered.message()));
  }
  void* data() const { return data_; }

 private:
  device::Device& device_;
  void* data_ = nullptr;
  int64_t size_bytes_ = 0;
  bool registered_ = false;
};

// Sign and fraction are random, the exponent is not: nothing overflows, cancels out or is denormal.
std::vector<uint8_t> RandomValues(int64_t size_bytes, int64_t element_bytes) {
  std::vector<uint8_t> bytes(static_cast<size_t>(size_bytes));
  std::mt19937 random(1);
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    const auto word = static_cast<uint32_t>(random());
    const uint32_t value =
        element_bytes == 4 ? (word & 0x807fffffU) | 0x3e000000U : (word & 0x807f807fU) | 0x3e003e00U;
    std::memcpy(bytes.data() + i, &value, 4);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GpuOperations>> GpuOperations::Create(device::Device& device,
                                                                     const GpuShape& shape) {
  auto operations = std::unique_ptr<GpuOperations>(new GpuOperations(device, shape));
  SPILLWAY_ASSIGN_OR_RETURN(operations->ahead_,
                            device.Allocate(2 * shape.ahead_bytes, "what is copied before what is timed"));
  device.Fill(operations->stream(), operations->ahead_, 0x3e, 2 * shape.ahead_bytes);
  SPILLWAY_RETURN_IF_ERROR(operations->timer_.Drain(operations->stream()));
  return operations;
}

GpuOperations::GpuOperations(device::Device& device, const GpuShape& shape)
    : device_(device), shape_(shape), timer_(device, Clock::Real(), ShortPause) {
  timer_.SetStall(kStallS);
}

GpuOperations::~GpuOperations() {
  if (ahead_) device_.Free(ahead_);
}

absl::StatusOr<double> GpuOperations::SecondsPerCall(absl::FunctionRef<void()> call) {
  const auto ahead = [&] {
    for (int i = 0; i < kCopiesAhead; ++i) {
      device_.CopyWithin(stream(), ahead_ + shape_.ahead_bytes, ahead_, shape_.ahead_bytes);
    }
  };
  call();
  SPILLWAY_ASSIGN_OR_RETURN(const double first_s, timer_.TimeBehind(stream(), ahead, call));
  const int64_t calls = first_s > 0 && shape_.group_s / first_s < kCallsMax
                            ? std::max<int64_t>(1, std::llround(shape_.group_s / first_s))
                            : kCallsMax;
  std::vector<double> seconds;
  for (int32_t i = 0; i < shape_.repeats; ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(const double group_s, timer_.TimeBehind(stream(), ahead, [&] {
      for (int64_t c = 0; c < calls; ++c) call();
    }));
    seconds.push_back(group_s / static_cast<double>(calls));
  }
  return profiler::Median(seconds);
}

absl::Status GpuOperations::Upload(DevicePtr to, const void* bytes, int64_t size_bytes) {
  device_.CopyIn(stream(), to, bytes, size_bytes);
  return timer_.Drain(stream());
}

absl::Status GpuOperations::FillRandom(DevicePtr to, int64_t size_bytes) {
  const int64_t first_bytes = std::min(size_bytes, kRandomBytes);
  const std::vector<uint8_t> values = RandomValues(first_bytes, element_bytes());
  SPILLWAY_RETURN_IF_ERROR(Upload(to, values.data(), first_bytes));
  for (int64_t done = first_bytes; done < size_bytes; done += first_bytes) {
    device_.CopyWithin(stream(), to + done, to, std::min(first_bytes, size_bytes - done));
  }
  return timer_.Drain(stream());
}

absl::StatusOr<device::PackedMatrix> GpuOperations::MakeMatrix(int64_t n, int64_t k, DeviceBuffer* memory) {
  const std::vector<uint8_t> values = RandomValues(n * k * 2, 2);
  const device::TensorView view{
      "random", device::Encoding::kBF16, {n, k}, values.data(), static_cast<int64_t>(values.size())};
  SPILLWAY_ASSIGN_OR_RETURN(device::PackedMatrix matrix,
                            device_.PlanMatrix({view}, device::WeightMode::kExpanded));
  std::vector<uint8_t> packed(static_cast<size_t>(matrix.size_bytes));
  SPILLWAY_RETURN_IF_ERROR(device_.PackMatrix({view}, matrix, packed.data()));
  SPILLWAY_RETURN_IF_ERROR(memory->Allocate(matrix.size_bytes, "a matrix"));
  matrix.data = memory->at();
  SPILLWAY_RETURN_IF_ERROR(Upload(matrix.data, packed.data(), matrix.size_bytes));
  return matrix;
}

absl::StatusOr<double> GpuOperations::MemoryBytesPerS() {
  DeviceBuffer buffer(device_);
  SPILLWAY_RETURN_IF_ERROR(buffer.Allocate(2 * shape_.copy_bytes, "copies within device memory"));
  SPILLWAY_RETURN_IF_ERROR(FillRandom(buffer.at(), shape_.copy_bytes));
  SPILLWAY_ASSIGN_OR_RETURN(const double seconds, SecondsPerCall([&] {
                              device_.CopyWithin(stream(), buffer.at() + shape_.copy_bytes, buffer.at(),
                                                 shape_.copy_bytes);
                            }));
  return 2 * static_cast<double>(shape_.copy_bytes) / seconds;
}

absl::StatusOr<double> GpuOperations::PinnedBytesPerS() {
  DeviceBuffer to(device_);
  SPILLWAY_RETURN_IF_ERROR(to.Allocate(shape_.link_bytes, "copies in"));
  PinnedBuffer from(device_);
  SPILLWAY_RETURN_IF_ERROR(from.Map(shape_.link_bytes));
  const absl::StatusOr<double> seconds =
      SecondsPerCall([&] { device_.CopyIn(stream(), to.at(), from.data(), shape_.link_bytes); });
  SPILLWAY_RETURN_IF_ERROR(seconds.status());
  return static_cast<double>(shape_.link_bytes) / *seconds;
}

absl::StatusOr<double> GpuOperations::ProductFlopPerS() {
  const int64_t n = shape_.product;
  DeviceBuffer weights(device_), in(device_), out(device_);
  SPILLWAY_ASSIGN_OR_RETURN(const device::PackedMatrix matrix, MakeMatrix(n, n, &weights));
  const int32_t rows = static_cast<int32_t>(n);
  SPILLWAY_RETURN_IF_ERROR(device_.WarmUp({&matrix, 1}, {&rows, 1}));
  SPILLWAY_RETURN_IF_ERROR(in.Allocate(n * n * element_bytes(), "a product's input"));
  SPILLWAY_RETURN_IF_ERROR(out.Allocate(n * n * element_bytes(), "a product"));
  SPILLWAY_RETURN_IF_ERROR(FillRandom(in.at(), n * n * element_bytes()));
  device::GemmArgs args;
  args.rows = rows;
  args.in = in.at();
  args.out = out.at();
  args.out_dtype = device_.info().compute_dtype;
  SPILLWAY_ASSIGN_OR_RETURN(const double seconds,
                            SecondsPerCall([&] { device_.Gemm(stream(), matrix, args); }));
  const auto extent = static_cast<double>(n);
  return 2 * extent * extent * extent / seconds;
}

absl::StatusOr<double> GpuOperations::RebuildSeconds(int32_t rows, int64_t d, int64_t d_q, int64_t d_kv) {
  DeviceBuffer weights(device_), in(device_), out(device_);
  SPILLWAY_ASSIGN_OR_RETURN(const device::PackedMatrix qkv, MakeMatrix(d_q + 2 * d_kv, d, &weights));
  SPILLWAY_ASSIGN_OR_RETURN(const device::PackedMatrix kv, device_.SliceMatrix(qkv, d_q, 2 * d_kv));
  SPILLWAY_RETURN_IF_ERROR(device_.WarmUp({&kv, 1}, {&rows, 1}));
  const int64_t in_bytes = rows * d * element_bytes();
  SPILLWAY_RETURN_IF_ERROR(in.Allocate(kInputs * in_bytes, "X"));
  SPILLWAY_RETURN_IF_ERROR(FillRandom(in.at(), kInputs * in_bytes));
  SPILLWAY_RETURN_IF_ERROR(out.Allocate(rows * 2 * d_kv * element_bytes(), "rebuilt K and V"));
  device::GemmArgs args;
  args.rows = rows;
  args.out = out.at();
  args.out_dtype = device_.info().compute_dtype;
  int64_t call = 0;
  return SecondsPerCall([&] {
    args.in = in.at() + call++ % kInputs * in_bytes;
    device_.Gemm(stream(), kv, args);
  });
}

int64_t GpuOperations::AttentionBytes(int32_t sequences, int32_t context) const {
  return int64_t{sequences} * context * 2 * shape_.d_kv() * element_bytes();
}

absl::StatusOr<double> GpuOperations::DecodeAttentionSeconds(int32_t sequences, int32_t context) {
  const int64_t slot_bytes = shape_.d_kv() * shape_.block_tokens * element_bytes();
  const int32_t blocks_each = (context + shape_.block_tokens - 1) / shape_.block_tokens;
  const int32_t n_blocks = blocks_each * sequences;
  const int64_t arena_bytes = 2 * n_blocks * slot_bytes;
  const int64_t copies = std::max<int64_t>(1, (shape_.cold_bytes + arena_bytes - 1) / arena_bytes);
  DeviceBuffer arenas(device_), q(device_), tables(device_), partials(device_);
  SPILLWAY_RETURN_IF_ERROR(arenas.Allocate(copies * arena_bytes, "attention's keys and values"));
  SPILLWAY_RETURN_IF_ERROR(FillRandom(arenas.at(), copies * arena_bytes));
  const int64_t q_bytes = int64_t{sequences} * shape_.d_q() * element_bytes();
  SPILLWAY_RETURN_IF_ERROR(q.Allocate(q_bytes, "queries"));
  SPILLWAY_RETURN_IF_ERROR(FillRandom(q.at(), q_bytes));

  std::vector<device::AttentionSequence> sequence_table;
  for (int32_t s = 0; s < sequences; ++s) {
    sequence_table.push_back({s, 1, context - 1, s * blocks_each, blocks_each, 0, context});
  }
  std::vector<int32_t> places(static_cast<size_t>(n_blocks));
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(i);
  std::shuffle(places.begin(), places.end(), std::mt19937(1));
  std::vector<device::AttentionBlock> block_table;
  for (const int32_t place : places) block_table.push_back({2 * place, 2 * place + 1});
  const auto sequence_bytes =
      static_cast<int64_t>(sequence_table.size() * sizeof(device::AttentionSequence) + 255) / 256 * 256;
  const auto block_bytes = static_cast<int64_t>(block_table.size() * sizeof(device::AttentionBlock));
  SPILLWAY_RETURN_IF_ERROR(tables.Allocate(sequence_bytes + block_bytes, "attention's tables"));
  SPILLWAY_RETURN_IF_ERROR(
      Upload(tables.at(), sequence_table.data(),
             static_cast<int64_t>(sequence_table.size() * sizeof(device::AttentionSequence))));
  SPILLWAY_RETURN_IF_ERROR(Upload(tables.at() + sequence_bytes, block_table.data(), block_bytes));
  const int64_t heads_bytes = (int64_t{sequences} * shape_.n_heads * 4 + 255) / 256 * 256;
  SPILLWAY_RETURN_IF_ERROR(
      partials.Allocate(2 * heads_bytes + sequences * shape_.d_q() * 4, "attention's partial results"));

  device::PartialAttentionArgs args;
  args.n_sequences = args.rows = sequences;
  args.n_heads = shape_.n_heads;
  args.n_kv_heads = shape_.n_kv_heads;
  args.d_head = shape_.d_head;
  args.block_tokens = shape_.block_tokens;
  args.q_stride = static_cast<int32_t>(shape_.d_q());
  args.scale = 1 / std::sqrt(static_cast<float>(shape_.d_head));
  args.q = q.at();
  args.sequences = tables.at();
  args.blocks = tables.at() + sequence_bytes;
  args.arena.slot_bytes = slot_bytes;
  args.max = partials.at();
  args.sum = partials.at() + heads_bytes;
  args.acc = partials.at() + 2 * heads_bytes;
  int64_t call = 0;
  return SecondsPerCall([&] {
    args.arena.base = arenas.at() + call++ % copies * arena_bytes;
    device_.PartialAttention(stream(), args);
  });
}

}  // namespace spillway::bench
