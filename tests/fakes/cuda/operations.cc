#include "tests/fakes/cuda/operations.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

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
  Kernel(CUstream_st& stream, const LaunchGeometry& launch, std::vector<const void*> pointers,
         std::function<void()> body, Random& random)
      : stream_(stream), launch_(launch), pointers_(std::move(pointers)), body_(std::move(body)) {
    n_ = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
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
    cost_ns = kKernelNs +
              static_cast<int64_t>(n_ * launch.block.x * launch.block.y * launch.block.z) / kThreadsPerNs;
  }

  bool Step(Machine& machine) override {
    if (done_ == 0) {
      if (machine.FailsNow("kernel")) return false;
      for (size_t i = 0; i < pointers_.size(); ++i) {
        const void* pointer = pointers_[i];
        if (pointer == nullptr || machine.IsDevice(pointer, 0) || machine.IsPinned(pointer, 0)) continue;
        machine.Fail(cudaErrorIllegalAddress, "pointer argument " + std::to_string(i + 1) + " of a kernel, " +
                                                  Name(pointer) +
                                                  ", is neither device memory nor registered host memory");
        return false;
      }
      ++machine.counts.kernels;
      stream_.blocks->StartKernel();
    }
    // Some of the blocks, so that what other streams do comes between.
    uint64_t part = n_ - done_;
    if (part > 1 && machine.random.Below(4) == 0) part = 1 + machine.random.Next() % part;
    for (; part > 0; --part, ++done_) {
      const uint64_t block = (offset_ + done_ % n_ * stride_) % n_;
      const uint3 index = {static_cast<unsigned>(block % launch_.grid.x),
                           static_cast<unsigned>(block / launch_.grid.x % launch_.grid.y),
                           static_cast<unsigned>(block / launch_.grid.x / launch_.grid.y)};
      const std::string wrong = stream_.blocks->Run(launch_, index, body_, machine.random.Next());
      if (!wrong.empty()) {
        machine.Fail(cudaErrorLaunchFailure, wrong);
        return false;
      }
    }
    return done_ == n_;
  }

 private:
  CUstream_st& stream_;
  const LaunchGeometry launch_;
  const std::vector<const void*> pointers_;
  const std::function<void()> body_;
  uint64_t n_ = 0;  // blocks
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
std::unique_ptr<Operation> NewKernel(Machine& machine, CUstream_st& stream, const LaunchGeometry& launch,
                                     std::vector<const void*> pointers, std::function<void()> body) {
  return std::make_unique<Kernel>(stream, launch, std::move(pointers), std::move(body), machine.random);
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
