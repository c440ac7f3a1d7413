#include "engine/model/weight_loader.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "base/numa_node.h"
#include "base/status_macros.h"
#include "engine/device/matrix_parts.h"
#include "engine/device/narrowing.h"

namespace spillway::model {
namespace {

constexpr int64_t kAlignmentBytes = 256;  // as Device::Allocate gives
constexpr int64_t kRowsPerJob = 2048;     // of an embedding, so that several threads share it

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes; }

constexpr const char* kUseNames[] = {"weights: layers",
                                     "weights: embedding",
                                     "weights: embedding, which is the head",
                                     "weights: head",
                                     "weights: head (the tied embedding, packed for products)",
                                     "weights: norms and tables"};

}  // namespace

absl::StatusOr<const device::TensorView*> WeightLoader::Tensor(const std::string& name) const {
  const device::TensorView* tensor = source_.FindTensor(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat(source_.path(), ": tensor '", name, "' is missing"));
  }
  return tensor;
}

int64_t WeightLoader::Reserve(int64_t size_bytes, Use use) {
  int64_t& reserved_bytes = host_layers_.empty() ? reserved_bytes_ : host_reserved_bytes_;
  const int64_t offset = reserved_bytes;
  reserved_bytes += RoundUp(size_bytes);
  // Norms of a layer that is copied are a part of the copy.
  use_bytes_[static_cast<size_t>(host_layers_.empty() ? use : Use::kLayers)] += RoundUp(size_bytes);
  return offset;
}

int64_t WeightLoader::Reserve(const device::PackedMatrix& matrix, Use use) {
  (device::IsPlain(matrix.encoding) ? plain_bytes_ : packed_bytes_) += matrix.size_bytes;
  return Reserve(matrix.size_bytes, use);
}

void WeightLoader::SetLater(device::DevicePtr* ptr, int64_t offset_bytes) {
  if (host_layers_.empty()) {
    addresses_.emplace_back(ptr, offset_bytes);
  } else {
    ptr->address = kLayerOrigin + static_cast<uint64_t>(offset_bytes - host_layers_.back());
  }
}

int64_t WeightLoader::largest_layer_bytes() const {
  int64_t largest = 0;
  for (size_t i = 0; i < host_layers_.size(); ++i) {
    const int64_t end = i + 1 < host_layers_.size() ? host_layers_[i + 1] : host_reserved_bytes_;
    largest = std::max(largest, end - host_layers_[i]);
  }
  return largest;
}

void WeightLoader::BeginHostLayer() { host_layers_.push_back(host_reserved_bytes_); }

absl::StatusOr<std::vector<device::TensorView>> WeightLoader::Tensors(
    const std::vector<std::string>& names) const {
  std::vector<device::TensorView> tensors;
  for (const std::string& name : names) {
    SPILLWAY_ASSIGN_OR_RETURN(const device::TensorView* tensor, Tensor(name));
    tensors.push_back(*tensor);
  }
  return tensors;
}

absl::StatusOr<device::PackedMatrix> WeightLoader::PlanMatrix(const std::vector<std::string>& names) const {
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<device::TensorView> parts, Tensors(names));
  return device_.PlanMatrix(parts, options_.mode);
}

absl::StatusOr<device::PackedMatrix> WeightLoader::PlanTable(const std::string& name) const {
  SPILLWAY_ASSIGN_OR_RETURN(const device::TensorView* tensor, Tensor(name));
  return device_.PlanTable(*tensor, options_.mode);
}

absl::Status WeightLoader::PlaceMatrix(const std::vector<std::string>& names, Use use,
                                       device::PackedMatrix* matrix) {
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<device::TensorView> parts, Tensors(names));
  SPILLWAY_ASSIGN_OR_RETURN(*matrix, device_.PlanMatrix(parts, options_.mode));
  const int64_t offset = Reserve(*matrix, use);
  SetLater(&matrix->data, offset);
  jobs_.push_back({!host_layers_.empty(), offset, matrix->size_bytes,
                   [this, parts = std::move(parts), plan = *matrix](uint8_t* out) {
                     std::vector<std::vector<uint8_t>> rooms(parts.size());
                     std::vector<device::TensorView> read;
                     for (size_t i = 0; i < parts.size(); ++i) {
                       read.push_back(source_.Rows(parts[i], 0, parts[i].shape[0], &rooms[i]));
                     }
                     return device_.PackMatrix(read, plan, out);
                   }});
  return absl::OkStatus();
}

absl::Status WeightLoader::PlaceF32(const std::vector<std::string>& names, device::DevicePtr* ptr) {
  std::vector<float> values;
  for (const std::string& name : names) {
    SPILLWAY_ASSIGN_OR_RETURN(const device::TensorView* tensor, Tensor(name));
    std::vector<uint8_t> room;
    const device::TensorView read = source_.Rows(*tensor, 0, tensor->shape[0], &room);
    const size_t before = values.size();
    values.resize(before + static_cast<size_t>(read.elements()));
    device::DecodeToF32(read.encoding, read.data, read.elements(), values.data() + before);
  }
  PlaceF32(std::move(values), ptr);
  return absl::OkStatus();
}

void WeightLoader::PlaceF32(std::vector<float> values, device::DevicePtr* ptr) {
  const int64_t size_bytes = static_cast<int64_t>(values.size() * sizeof(float));
  const int64_t offset = Reserve(size_bytes, Use::kSmall);
  SetLater(ptr, offset);
  jobs_.push_back({!host_layers_.empty(), offset, size_bytes, [values = std::move(values)](uint8_t* out) {
                     device::NarrowFromF32(device::DType::kF32, values.data(),
                                           static_cast<int64_t>(values.size()), out);
                     return absl::OkStatus();
                   }});
}

int64_t WeightLoader::PlaceRows(const device::TensorView& tensor, int64_t first,
                                const device::PackedMatrix& plan, Use use) {
  SPILLWAY_CHECK(plan.is_table && host_layers_.empty());
  const int64_t row_bytes = plan.size_bytes / plan.n;
  const int64_t offset = Reserve(plan, use);
  for (int64_t done = 0; done < plan.n; done += kRowsPerJob) {
    device::PackedMatrix piece = plan;
    piece.n = std::min(kRowsPerJob, plan.n - done);
    piece.size_bytes = piece.n * row_bytes;
    jobs_.push_back({false, offset + done * row_bytes, piece.size_bytes, [=, this](uint8_t* out) {
                       std::vector<uint8_t> room;
                       const device::TensorView read = source_.Rows(tensor, first + done, piece.n, &room);
                       return device_.PackMatrix({&read, 1}, piece, out);
                     }});
  }
  return offset;
}

absl::Status WeightLoader::PlaceTable(const std::string& name, Use use,
                                      std::vector<device::PackedMatrix*> tables) {
  SPILLWAY_ASSIGN_OR_RETURN(const device::TensorView* tensor, Tensor(name));
  const int64_t offset = PlaceRows(*tensor, 0, *tables.front(), use);
  for (device::PackedMatrix* table : tables) SetLater(&table->data, offset);
  return absl::OkStatus();
}

absl::Status WeightLoader::PlaceExpandedRows(const std::string& name, int64_t first, device::DevicePtr* ptr) {
  SPILLWAY_ASSIGN_OR_RETURN(const device::TensorView* tensor, Tensor(name));
  SPILLWAY_CHECK(tensor->shape.size() == 2 && first >= 0 && first < tensor->shape[0]);
  device::TensorView rows = *tensor;
  rows.shape[0] -= first;
  SPILLWAY_ASSIGN_OR_RETURN(const device::PackedMatrix plan,
                            device_.PlanTable(rows, device::WeightMode::kExpanded));
  SetLater(ptr, PlaceRows(*tensor, first, plan, Use::kEmbedding));
  return absl::OkStatus();
}

absl::Status WeightLoader::Fill(ModelWeights& weights) {
  SPILLWAY_ASSIGN_OR_RETURN(weights.arena_, device_.Allocate(reserved_bytes_, "model weights"));
  weights.allocated_bytes_ = reserved_bytes_;
  for (const auto& [ptr, offset_bytes] : addresses_) *ptr = weights.arena_ + offset_bytes;
  for (size_t use = 0; use < use_bytes_.size(); ++use) {
    if (use_bytes_[use] > 0) weights.memory_.push_back({kUseNames[use], use_bytes_[use]});
  }
  weights.read_bytes_per_step_ =
      reserved_bytes_ + host_reserved_bytes_ - use_bytes_[static_cast<size_t>(Use::kEmbedding)];
  weights.packed_bytes_ = packed_bytes_;
  weights.plain_bytes_ = plain_bytes_;
  if (!host_layers_.empty()) SPILLWAY_RETURN_IF_ERROR(MapHost(weights));
  return RunJobs(weights);
}

absl::Status WeightLoader::MapHost(ModelWeights& weights) {
  void* const base = mmap(nullptr, static_cast<size_t>(host_reserved_bytes_), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("mapping ", FormatBytes(host_reserved_bytes_),
                     " for the layers' weights failed: ", std::strerror(errno)));
  }
  // Advice only: where huge pages are off, small ones serve.
  (void)madvise(base, static_cast<size_t>(host_reserved_bytes_), MADV_HUGEPAGE);
  if (options_.numa_node >= 0) {
    const absl::Status preferred =
        PreferNumaNode(static_cast<uint8_t*>(base), host_reserved_bytes_, options_.numa_node);
    if (!preferred.ok()) {
      Log(LogLevel::kWarning, "the layers' weights lie on any NUMA node", {{"cause", preferred.message()}});
    }
  }
  weights.host_ = static_cast<uint8_t*>(base);
  weights.host_bytes_ = host_reserved_bytes_;
  for (size_t i = 0; i < host_layers_.size(); ++i) {
    const int64_t end = i + 1 < host_layers_.size() ? host_layers_[i + 1] : host_reserved_bytes_;
    weights.runs_.push_back({host_layers_[i], end - host_layers_[i]});
  }
  const absl::Status registered = device_.RegisterHost(base, weights.host_bytes_);
  weights.registered_ = registered.ok();
  if (!registered.ok()) {
    Log(LogLevel::kWarning, "weights are not page-locked: copies to the device will be slower",
        {{"bytes", weights.host_bytes_}, {"cause", registered.message()}});
  }
  return absl::OkStatus();
}

absl::Status WeightLoader::RunJob(const Job& job, const ModelWeights& weights, device::StreamId stream,
                                  device::EventId copied) {
  if (job.on_host) return job.make(weights.host_ + job.offset_bytes);
  const device::DevicePtr destination = weights.arena_ + job.offset_bytes;
  if (device_.info().host_addressable) {
    return job.make(reinterpret_cast<uint8_t*>(destination.address));
  }
  std::vector<uint8_t> packed(static_cast<size_t>(job.size_bytes));
  SPILLWAY_RETURN_IF_ERROR(job.make(packed.data()));
  MutexLock lock(mutex_);  // a device is called by one thread at a time
  device_.CopyIn(stream, destination, packed.data(), job.size_bytes);
  device_.Record(copied, stream);
  return device_.Synchronize(copied);
}

absl::Status WeightLoader::RunJobs(const ModelWeights& weights) {
  std::stable_sort(jobs_.begin(), jobs_.end(),
                   [](const Job& a, const Job& b) { return a.size_bytes > b.size_bytes; });
  int64_t total_bytes = 0;
  for (const Job& job : jobs_) total_bytes += job.size_bytes;
  const device::StreamId stream = device_.CreateStream("weight load");
  const device::EventId copied = device_.CreateEvent();

  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < jobs_.size(); i = next.fetch_add(1)) {
      absl::Status status = RunJob(jobs_[i], weights, stream, copied);
      MutexLock lock(mutex_);
      if (!status.ok() && error_.ok()) error_ = std::move(status);
      if (!error_.ok()) return;
      done_bytes_ += jobs_[i].size_bytes;
      if (options_.progress) options_.progress(done_bytes_, total_bytes);
    }
  };
  std::vector<std::thread> threads;
  try {
    const int32_t wanted = LoadingThreads(device_.info(), options_);
    for (int32_t i = 1; i < wanted; ++i) threads.emplace_back(work);
  } catch (const std::system_error&) {
    // No more threads to be had: those that started and this one do the work.
  }
  work();
  for (std::thread& thread : threads) thread.join();
  MutexLock lock(mutex_);
  return std::move(error_);
}

}  // namespace spillway::model
