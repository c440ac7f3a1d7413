// WeightLoader: places a model's weights in one device allocation, and layers that are to lie on the host in
// one there, then fills both in parallel.
//
// Two passes: Place* decide sizes and offsets and note how each piece is made; Fill allocates and makes them,
// the largest first. Used by ModelWeights::Load alone, once.
#ifndef SPILLWAY_ENGINE_MODEL_WEIGHT_LOADER_H_
#define SPILLWAY_ENGINE_MODEL_WEIGHT_LOADER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "engine/device/device.h"
#include "engine/model/weights.h"

namespace spillway::model {

class WeightLoader {
 public:
  // What a piece of memory is for; a line of the memory table.
  enum class Use : uint8_t { kLayers, kEmbedding, kTiedEmbedding, kHead, kTiedHead, kSmall };

  // All references outlive this.
  WeightLoader(device::Device& device, const TensorSource& source, const WeightOptions& options)
      : device_(device), source_(source), options_(options) {}

  // What the device holds the tensors `names` as, stacked along n, or the rows of `name`.
  absl::StatusOr<device::PackedMatrix> PlanMatrix(const std::vector<std::string>& names) const;
  absl::StatusOr<device::PackedMatrix> PlanTable(const std::string& name) const;
  // A matrix of the tensors `names` stacked along n. `matrix` gets its address by Fill.
  absl::Status PlaceMatrix(const std::vector<std::string>& names, Use use, device::PackedMatrix* matrix);
  // Tensors, one after the other, as f32. `ptr` gets its address by Fill.
  absl::Status PlaceF32(const std::vector<std::string>& names, device::DevicePtr* ptr);
  void PlaceF32(std::vector<float> values, device::DevicePtr* ptr);
  // The rows of `name`, once, for `tables`: the same plan, of which is_table. Each gets its address by Fill.
  absl::Status PlaceTable(const std::string& name, Use use, std::vector<device::PackedMatrix*> tables);
  // A matrix from its row `first` on, as rows of the compute dtype, [n - first, k]; of the embedding's use.
  absl::Status PlaceExpandedRows(const std::string& name, int64_t first, device::DevicePtr* ptr);

  // What is placed from here on, until the next call, is one layer: a run of its own in host memory. Its
  // addresses count from kLayerOrigin, the layer's beginning; that is not 0, which would say that there is
  // nothing.
  static constexpr uint64_t kLayerOrigin = 256;
  void BeginHostLayer();

  // What was placed so far: on the device, and of layers on the host.
  int64_t reserved_bytes() const { return reserved_bytes_; }
  int64_t host_reserved_bytes() const { return host_reserved_bytes_; }
  int64_t largest_layer_bytes() const;

  // Allocates, fills and sets every address; then `weights` owns the memory.
  absl::Status Fill(ModelWeights& weights);

 private:
  // One unit of work of one thread: writes `size_bytes` at `offset_bytes` of the allocation.
  struct Job {
    bool on_host = false;
    int64_t offset_bytes = 0;
    int64_t size_bytes = 0;
    std::function<absl::Status(uint8_t* out)> make;
  };

  absl::StatusOr<const device::TensorView*> Tensor(const std::string& name) const;
  absl::StatusOr<std::vector<device::TensorView>> Tensors(const std::vector<std::string>& names) const;
  // Rows of `tensor` from `first` on, as `plan`, a table; jobs of a few rows each, which several threads
  // share. Returns the offset.
  int64_t PlaceRows(const device::TensorView& tensor, int64_t first, const device::PackedMatrix& plan,
                    Use use);
  // Reserves room and returns its offset.
  int64_t Reserve(int64_t size_bytes, Use use);
  int64_t Reserve(const device::PackedMatrix& matrix, Use use);
  // `ptr` lies at `offset_bytes` of what is being placed.
  void SetLater(device::DevicePtr* ptr, int64_t offset_bytes);
  absl::Status MapHost(ModelWeights& weights);
  absl::Status RunJobs(const ModelWeights& weights);
  absl::Status RunJob(const Job& job, const ModelWeights& weights, device::StreamId stream,
                      device::EventId copied);

  device::Device& device_;
  const TensorSource& source_;
  const WeightOptions& options_;

  int64_t reserved_bytes_ = 0;                                   // on the device
  int64_t host_reserved_bytes_ = 0;                              // on the host
  std::vector<int64_t> host_layers_;                             // where they begin
  std::vector<int64_t> use_bytes_ = std::vector<int64_t>(6, 0);  // by Use
  int64_t packed_bytes_ = 0;                                     // of matrices and tables
  int64_t plain_bytes_ = 0;
  std::vector<Job> jobs_;
  std::vector<std::pair<device::DevicePtr*, int64_t>> addresses_;  // on the device: to set, and offsets

  Mutex mutex_;  // of the device's copies, progress and the first error while jobs run
  int64_t done_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_WEIGHT_LOADER_H_
