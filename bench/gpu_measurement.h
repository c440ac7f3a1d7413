// GpuMeasurement: one run of `spillway-bench gpu`: what the device can do, then what of that operations and
// steps get.
//
// What there is no memory or no time for becomes a target without a number that says so; what was measured
// before an error stays. Thread-compatible. Borrows the device and the stream.
#ifndef SPILLWAY_BENCH_GPU_MEASUREMENT_H_
#define SPILLWAY_BENCH_GPU_MEASUREMENT_H_

#include <atomic>
#include <map>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "bench/gpu_bounds.h"
#include "bench/gpu_operations.h"
#include "bench/gpu_session.h"
#include "bench/gpu_shape.h"
#include "bench/gpu_targets.h"
#include "engine/device/device.h"
#include "engine/model/model.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

class GpuMeasurement {
 public:
  // Begins nothing after `budget_s`, nor once `stop` is set. `progress` is told what is measured.
  GpuMeasurement(device::Device& device, const GpuShape& shape, double budget_s,
                 const std::atomic<bool>& stop, std::ostream& progress);

  // All of it. Of errors those of the device and of code; targets() are whole up to there.
  absl::Status Measure();

  const std::vector<GpuTarget>& targets() const { return targets_; }
  // {"peaks", "operations", "models"}, raw numbers.
  const nlohmann::json& json() const { return json_; }

 private:
  // Of a model with matrices of one encoding: tokens a second of the smallest batch.
  struct DecodeRate {
    double measured = 0;
    double whole = 0;
  };
  struct LoadedModel {
    std::string encoding;  // "bf16", "Q4_K"
    model::Model model;
    nlohmann::json* json = nullptr;  // its part of json_
  };

  bool IsOver() const;
  void Progress(absl::string_view what);
  // Adds `target` with what `measure` puts into it.
  absl::Status Add(GpuTarget target, absl::FunctionRef<absl::Status(GpuTarget&)> measure);
  // FailedPrecondition where the peak is not known.
  absl::StatusOr<double> ShareOf(absl::string_view peak, double work, double seconds) const;
  double PeakOf(absl::string_view peak) const;

  absl::Status MeasurePeaks(GpuOperations& operations);
  absl::Status MeasureOperations();
  absl::Status AddRebuild(GpuOperations& operations, const std::string& what, int64_t d, int64_t d_q,
                          int64_t d_kv);
  absl::Status AddAttention(GpuOperations& operations, int32_t sequences, int32_t context);

  absl::StatusOr<model::Model> Load(device::Encoding matrices, device::WeightMode mode, int32_t layers);
  absl::Status MeasureModel(device::Encoding matrices, int32_t layers);
  absl::Status AddDecode(GpuSession* session, LoadedModel& loaded, int32_t batch);
  absl::Status AddPrefill(GpuSession* session, LoadedModel& loaded, int32_t piece_rows);
  absl::Status AddCarried(LoadedModel& loaded);
  absl::Status AddRatio();

  device::Device& device_;
  const GpuShape shape_;
  const MonotonicNs until_ns_;
  const std::atomic<bool>& stop_;
  std::ostream& progress_;
  std::map<std::string, double, std::less<>> peaks_;  // by name; none: not known
  std::map<std::string, DecodeRate> decode_rates_;    // by encoding
  absl::Status why_no_session_;                       // of a model
  std::vector<GpuTarget> targets_;
  nlohmann::json json_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GPU_MEASUREMENT_H_
