#include "engine/model/weight_loader.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/model/narrowing.h"

namespace spillway::model {
namespace {

constexpr int64_t kAlignmentBytes = 256;  // as Device::Allocate gives
constexpr int64_t kRowsPerJob = 2048;     // of an embedding, so that several threads share it

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes; }

constexpr const char* kUseNames[] = {"weights: layers", "weights: embedding", "weights: head",
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
  const int64_t offset = reserved_bytes_;
  reserved_bytes_ += RoundUp(size_bytes);
  use_bytes_[static_cast<size_t>(use)] += RoundUp(size_bytes);
  return offset;
}

absl::Status WeightLoader::PlaceMatrix(const std::vector<std::string>& names, Use use,
                                       device::PackedMatrix* matrix) {
  std::vector<device::TensorView> parts;
  for (const std::string& name : names) {
    SPILLWAY_ASSIGN_OR_RETURN(const device::TensorView* tensor, Tensor(name));
    parts.push_back(*tensor);
  }
  SPILLWAY_ASSIGN_OR_RETURN(*matrix, device_.PlanMatrix(parts, options_.mode));
  const int64_t offset = Reserve(matrix->size_bytes, use);
  addresses_.emplace_back(&matrix->data, offset);
  jobs_.push_back(
      {offset, matrix->size_bytes, [this, parts = std::move(parts), plan = *matrix](uint8_t* out) {
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
  addresses_.emplace_back(ptr, offset);
  jobs_.push_back({offset, size_bytes, [values = std::move(values)](uint8_t* out) {
                     NarrowFromF32(device::DType::kF32, values.data(), static_cast<int64_t>(values.size()),
                                   out);
                     return absl::OkStatus();
                   }});
}

absl::Status WeightLoader::PlaceRows(const std::string& name, int64_t first, Use use,
                                     device::DevicePtr* ptr) {
  SPILLWAY_ASSIGN_OR_RETURN(const device::TensorView* tensor, Tensor(name));
  SPILLWAY_CHECK(tensor->shape.size() == 2 && first >= 0 && first < tensor->shape[0]);
  const int64_t rows = tensor->shape[0] - first;
  const int64_t columns = tensor->shape[1];
  const device::DType dtype = device_.info().compute_dtype;
  const int64_t row_bytes = columns * device::SizeOf(dtype);
  const int64_t offset = Reserve(rows * row_bytes, use);
  addresses_.emplace_back(ptr, offset);
  for (int64_t done = 0; done < rows; done += kRowsPerJob) {
    const int64_t count = std::min(kRowsPerJob, rows - done);
    jobs_.push_back({offset + done * row_bytes, count * row_bytes, [=, this](uint8_t* out) {
                       std::vector<uint8_t> room;
                       const device::TensorView read = source_.Rows(*tensor, first + done, count, &room);
                       const int64_t encoded_bytes = device::EncodedBytes(read.encoding, columns);
                       std::vector<float> row(static_cast<size_t>(columns));
                       for (int64_t i = 0; i < count; ++i) {
                         device::DecodeToF32(read.encoding, read.data + i * encoded_bytes, columns,
                                             row.data());
                         NarrowFromF32(dtype, row.data(), columns, out + i * row_bytes);
                       }
                       return absl::OkStatus();
                     }});
  }
  return absl::OkStatus();
}

absl::Status WeightLoader::Fill(ModelWeights& weights) {
  SPILLWAY_ASSIGN_OR_RETURN(weights.arena_, device_.Allocate(reserved_bytes_, "model weights"));
  weights.allocated_bytes_ = reserved_bytes_;
  for (const auto& [ptr, offset_bytes] : addresses_) *ptr = weights.arena_ + offset_bytes;
  for (size_t use = 0; use < use_bytes_.size(); ++use) {
    if (use_bytes_[use] > 0) weights.memory_.push_back({kUseNames[use], use_bytes_[use]});
  }
  weights.read_bytes_per_step_ = reserved_bytes_ - use_bytes_[static_cast<size_t>(Use::kEmbedding)];
  return RunJobs(weights.arena_);
}

absl::Status WeightLoader::RunJob(const Job& job, device::DevicePtr arena, device::StreamId stream,
                                  device::EventId copied) {
  const device::DevicePtr destination = arena + job.offset_bytes;
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

absl::Status WeightLoader::RunJobs(device::DevicePtr arena) {
  std::stable_sort(jobs_.begin(), jobs_.end(),
                   [](const Job& a, const Job& b) { return a.size_bytes > b.size_bytes; });
  int64_t total_bytes = 0;
  for (const Job& job : jobs_) total_bytes += job.size_bytes;
  const device::StreamId stream = device_.CreateStream("weight load");
  const device::EventId copied = device_.CreateEvent();

  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < jobs_.size(); i = next.fetch_add(1)) {
      absl::Status status = RunJob(jobs_[i], arena, stream, copied);
      MutexLock lock(mutex_);
      if (!status.ok() && error_.ok()) error_ = std::move(status);
      if (!error_.ok()) return;
      done_bytes_ += jobs_[i].size_bytes;
      if (options_.progress) options_.progress(done_bytes_, total_bytes);
    }
  };
  std::vector<std::thread> threads;
  try {
    const int32_t wanted = options_.threads > 0 ? options_.threads : device_.info().threads;
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
