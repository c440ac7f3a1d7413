#include "tests/fakes/cuda/operations.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "tests/fakes/cuda/kernel_name.h"

namespace spillway::fakes::cuda {
namespace {

// A rough machine, so that events are some time apart: what it says of speed means nothing.
constexpr int64_t kCopyNs = 1500;
constexpr int64_t kLinkBytesPerNs = 25;
constexpr int64_t kDeviceBytesPerNs = 1000;
constexpr int64_t kKernelNs = 3000;
constexpr int64_t kThreadsPerNs = 16;

std::string Name(const void* pointer) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", pointer);
  return text;
}

class Copy : public Operation {
 public:
  Copy(std::vector<CopyPiece> pieces, cudaMemcpyKind kind, Random& random)
      : pieces_(std::move(pieces)), kind_(kind) {
    size_t total = 0;
    for (const CopyPiece& piece : pieces_) total += piece.size_bytes;
    engine = kind == cudaMemcpyHostToDevice   ? Engine::kIn
             : kind == cudaMemcpyDeviceToHost ? Engine::kOut
                                              : Engine::kCompute;
    cost_ns = kCopyNs * static_cast<int64_t>(pieces_.size()) +
              static_cast<int64_t>(total) /
                  (kind == cudaMemcpyDeviceToDevice ? kDeviceBytesPerNs : kLinkBytesPerNs);
    for (size_t i = pieces_.size(); i > 1; --i) {
      std::swap(pieces_[i - 1], pieces_[random.Below(static_cast<uint32_t>(i))]);
    }
    slices_ = 1 + random.Below(3);
  }

  bool Step(Machine& machine) override {
    if (piece_ == pieces_.size()) return true;
    const CopyPiece& piece = pieces_[piece_];
    if (slice_ == 0) {
      if (machine.FailsNow("copy")) return false;
      if (const std::string wrong = WrongEnds(machine, piece, kind_); !wrong.empty()) {
        machine.Fail(cudaErrorIllegalAddress, wrong);
        return false;
      }
      ++machine.counts.copies;
    }
    // In slices, so that others see it half done.
    const size_t begin = piece.size_bytes * slice_ / slices_;
    const size_t end = piece.size_bytes * (slice_ + 1) / slices_;
    char* const to = static_cast<char*>(piece.destination) + begin;
    const char* const from = static_cast<const char*>(piece.source) + begin;
    TsanContext::Read(from, end - begin);
    TsanContext::Write(to, end - begin);
    std::memcpy(to, from, end - begin);
    if (++slice_ < slices_) return false;
    slice_ = 0;
    return ++piece_ == pieces_.size();
  }

 private:
  std::vector<CopyPiece> pieces_;
  const cudaMemcpyKind kind_;
  size_t piece_ = 0;
  uint32_t slice_ = 0;
  uint32_t slices_ = 1;
};

class Fill : public Operation {
 public:
  Fill(void* destination, int value, size_t size_bytes)
      : destination_(destination), value_(value), size_bytes_(size_bytes) {
    engine = Engine::kCompute;
    cost_ns = kCopyNs + static_cast<int64_t>(size_bytes) / kDeviceBytesPerNs;
  }
  bool Step(Machine& machine) override {
    if (!machine.IsDevice(destination_, size_bytes_)) {
      machine.Fail(cudaErrorIllegalAddress, "a fill of " + std::to_string(size_bytes_) + " bytes at " +
                                                Name(destination_) + ", which is no device memory");
      return false;
    }
    TsanContext::Write(destination_, size_bytes_);
    std::memset(destination_, value_, size_bytes_);
    return true;
  }

 private:
  void* destination_;
  int value_;
  size_t size_bytes_;
};

class Kernel : public Operation {
 public:
  Kernel(CUstream_st& stream, KernelLaunch launch, Random& random)
      : stream_(stream), launch_(std::move(launch)) {
    const LaunchGeometry& geometry = launch_.geometry;
    begins_early_ = geometry.overlaps && random.Below(2) == 0;
    n_ = uint64_t{geometry.grid.x} * geometry.grid.y * geometry.grid.z;
    // Blocks in order, backwards, or scattered by a stride that meets every one.
    offset_ = random.Next() % n_;
    switch (random.Below(3)) {
      case 0:
        stride_ = 1;
        offset_ = 0;
        break;
      case 1:
        stride_ = n_ - 1 + (n_ == 1 ? 1 : 0);
        offset_ = n_ - 1;
        break;
      default:
        stride_ = 1 + random.Next() % n_;
        while (std::gcd(stride_, n_) != 1) stride_ = stride_ % n_ + 1;
    }
    engine = Engine::kCompute;
    cost_ns = kKernelNs + static_cast<int64_t>(n_ * geometry.block.x * geometry.block.y * geometry.block.z) /
                              kThreadsPerNs;
  }

  ~Kernel() override {
    if (runner_ == nullptr) return;
    runner_->GiveUp();
    runner_->taken = false;
  }

  bool IsKernel() const override { return true; }

  // Its first block, up to where it waits for the kernel whose turn it is.
  void BeginEarly(Machine& machine) override {
    if (!begins_early_ || runner_ != nullptr || WrongPointer(machine) >= 0) return;
    ++machine.counts.kernels_begun_early;
    const std::string wrong =
        Start(machine).Begin(launch_.geometry, BlockAt(0), launch_.body, machine.random.Next());
    if (!wrong.empty()) Fail(machine, wrong);
  }

  bool Step(Machine& machine) override {
    if (done_ == 0) {
      if (machine.FailsNow("kernel")) return false;
      if (const int wrong = WrongPointer(machine); wrong >= 0) {
        machine.Fail(cudaErrorIllegalAddress, "pointer argument " + std::to_string(wrong + 1) +
                                                  " of a kernel, " + Name(launch_.pointers[wrong]) +
                                                  ", is neither device memory nor registered host memory");
        return false;
      }
      ++machine.counts.kernels;
    }
    // Some of the blocks, so that what other streams do comes between.
    uint64_t part = n_ - done_;
    if (part > 1 && machine.random.Below(4) == 0) part = 1 + machine.random.Next() % part;
    for (; part > 0; --part, ++done_) {
      const bool has_begun = done_ == 0 && runner_ != nullptr;
      if (runner_ == nullptr) Start(machine);
      const std::string wrong =
          has_begun ? runner_->Finish()
                    : runner_->Run(launch_.geometry, BlockAt(done_), launch_.body, machine.random.Next());
      if (!wrong.empty()) {
        Fail(machine, wrong);
        return false;
      }
    }
    return done_ == n_;
  }

 private:
  // The first argument that is a pointer to no memory; -1: there is none.
  int WrongPointer(const Machine& machine) const {
    for (size_t i = 0; i < launch_.pointers.size(); ++i) {
      const void* pointer = launch_.pointers[i];
      if (pointer != nullptr && !machine.IsDevice(pointer, 0) && !machine.IsPinned(pointer, 0)) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }

  BlockRunner& Start(Machine& machine) {
    runner_ = &machine.TakeRunner(stream_);
    runner_->StartKernel(&enqueued);
    return *runner_;
  }

  uint3 BlockAt(uint64_t nth) const {
    const dim3& grid = launch_.geometry.grid;
    const uint64_t block = (offset_ + nth % n_ * stride_) % n_;
    return {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
            static_cast<unsigned>(block / grid.x / grid.y)};
  }

  void Fail(Machine& machine, const std::string& wrong) const {
    machine.Fail(cudaErrorLaunchFailure, wrong + " (in " + NameOfKernel(launch_.kernel) + ")");
  }

  CUstream_st& stream_;
  const KernelLaunch launch_;
  bool begins_early_ = false;
  BlockRunner* runner_ = nullptr;  // once it has begun
  uint64_t n_ = 0;                 // blocks
  uint64_t done_ = 0;
  uint64_t offset_ = 0;
  uint64_t stride_ = 1;
};

// What it does to memory ThreadSanitizer is not told.
class HostCall : public Operation {
 public:
  explicit HostCall(std::function<void()> function) : function_(std::move(function)) {}
  bool Step(Machine& /*machine*/) override {
    function_();
    return true;
  }

 private:
  std::function<void()> function_;
};

class Record : public Operation {
 public:
  explicit Record(std::shared_ptr<EventRecord> record) : record_(std::move(record)) {}
  bool IsRecord() const override { return true; }
  bool Step(Machine& /*machine*/) override {
    record_->done = true;
    TsanRelease(&record_->ran);
    record_->time_ns = std::max(record_->stream->time_ns, enqueued_ns);
    return true;
  }

 private:
  std::shared_ptr<EventRecord> record_;
};

class Wait : public Operation {
 public:
  explicit Wait(std::shared_ptr<EventRecord> record) : record_(std::move(record)) {}
  CUstream_st* WaitsFor() const override { return record_->done ? nullptr : record_->stream; }
  bool Step(Machine& /*machine*/) override {
    TsanAcquire(&record_->ran);
    enqueued_ns = std::max(enqueued_ns, record_->time_ns);
    return true;
  }

 private:
  std::shared_ptr<EventRecord> record_;
};

}  // namespace

std::string WrongEnds(const Machine& machine, const CopyPiece& piece, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const std::string size = std::to_string(piece.size_bytes) + " bytes";
  if (machine.IsDevice(piece.destination, piece.size_bytes) != to_device) {
    return "a copy's destination, " + size + " at " + Name(piece.destination) + ", is " +
           (to_device ? "no device memory" : "device memory");
  }
  if (machine.IsDevice(piece.source, piece.size_bytes) != from_device) {
    return "a copy's source, " + size + " at " + Name(piece.source) + ", is " +
           (from_device ? "no device memory" : "device memory");
  }
  return "";
}

cudaMemcpyKind KindOf(const Machine& machine, const void* destination, const void* source) {
  const bool to = machine.IsDevice(destination, 0);
  const bool from = machine.IsDevice(source, 0);
  return to ? (from ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
            : (from ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
}

std::unique_ptr<Operation> NewCopy(Machine& machine, std::vector<CopyPiece> pieces, cudaMemcpyKind kind) {
  return std::make_unique<Copy>(std::move(pieces), kind, machine.random);
}
std::unique_ptr<Operation> NewFill(void* destination, int value, size_t size_bytes) {
  return std::make_unique<Fill>(destination, value, size_bytes);
}
std::unique_ptr<Operation> NewKernel(Machine& machine, CUstream_st& stream, KernelLaunch launch) {
  return std::make_unique<Kernel>(stream, std::move(launch), machine.random);
}
std::unique_ptr<Operation> NewHostCall(std::function<void()> function) {
  return std::make_unique<HostCall>(std::move(function));
}
std::unique_ptr<Operation> NewRecord(std::shared_ptr<EventRecord> record) {
  return std::make_unique<Record>(std::move(record));
}
std::unique_ptr<Operation> NewWait(std::shared_ptr<EventRecord> record) {
  return std::make_unique<Wait>(std::move(record));
}

}  // namespace spillway::fakes::cuda
