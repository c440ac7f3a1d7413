// LayerMeter: what a model's layers cost on a device, by the transformer that executors run.
//
// Work goes from layer to layer, as executors do, so that weights come from where they will come from and not
// from a cache that the same layer has just filled. Inputs are small constants: speed does not depend on
// them. So do keys: each run of attention reads the next ones of the arena, which no device's cache holds.
//
// Memory: on the device the transformer's scratch for `limits`, kArenaBytes of K and V (a quarter of what is
// free or what the longest reads take, where that is less, but always a chunk's) and the rows' own; freed
// with the meter (kept, where the device stalled: it may still use it). Thread-compatible; everything passed
// must outlive it.
#ifndef SPILLWAY_PROFILER_LAYER_METER_H_
#define SPILLWAY_PROFILER_LAYER_METER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "engine/device/device.h"
#include "engine/kv/geometry.h"
#include "engine/model/transformer.h"
#include "profiler/curve_sampler.h"
#include "profiler/device_timer.h"
#include "profiler/machine_profile.h"

namespace spillway::profiler {

class LayerMeter {
 public:
  // Five times the 50 MB that an H100 keeps of it in its cache.
  static constexpr int64_t kArenaBytes = int64_t{256} << 20;

  // `kv_chunk_tokens`: attention takes so many keys in a call, the next ones in another, as executors attend
  // to what arrives in chunks; 0: all in one. REQUIRES: limits.max_rebuild_rows is two blocks or more, whole
  // ones.
  static absl::StatusOr<std::unique_ptr<LayerMeter>> Create(
      device::Device& device, DeviceTimer& timer, const CurveSampler& sampler,
      const model::ModelConfig& config, const model::ModelWeights& weights, const kv::Geometry& geometry,
      const model::TransformerLimits& limits, int32_t kv_chunk_tokens);
  ~LayerMeter();
  LayerMeter(const LayerMeter&) = delete;
  LayerMeter& operator=(const LayerMeter&) = delete;

  // One layer without attention (Project and Complete), against rows.
  absl::StatusOr<CostCurve> MeasureLinear(MonotonicNs until_ns);
  // The same for a few rows: seconds.
  absl::StatusOr<double> MeasureLinearOnce(MonotonicNs until_ns);
  // K and V of a layer from X, against tokens: a block, and on by doubling to a chunk; then chunk by chunk.
  absl::StatusOr<CostCurve> MeasureRebuild(MonotonicNs until_ns);
  // Attention of a layer against reads: single rows of many sequences, each with keys of its own.
  absl::StatusOr<CostCurve> MeasureDecodeAttention(MonotonicNs until_ns);
  // The same for many rows of one sequence.
  absl::StatusOr<CostCurve> MeasurePrefillAttention(MonotonicNs until_ns);
  // Final norm, head and a plain draw, against rows.
  absl::StatusOr<CostCurve> MeasureHead(MonotonicNs until_ns);

 private:
  // `sequences` with `rows` query rows each, which all read `keys` cached tokens.
  struct Reads {
    int32_t sequences;
    int32_t rows;
    int32_t keys;
    double total() const { return 1.0 * sequences * rows * keys; }
  };

  // One attention call: entries of sequence_rows_.
  struct Call {
    int32_t first = 0;
    int32_t n_sequences = 0;
  };

  LayerMeter(device::Device& device, DeviceTimer& timer, const CurveSampler& sampler,
             const model::ModelConfig& config, const kv::Geometry& geometry, int32_t kv_chunk_tokens);

  absl::Status Allocate();
  absl::Status Prepare();
  // Fills the tables, and calls_ with how they are attended to.
  absl::Status TabulateReads(const Reads& reads);
  int32_t ChunkBlocks() const;
  // Of the table of blocks: what the longest reads take.
  int64_t TableBlocks() const;
  absl::StatusOr<double> TimeLinear(int32_t rows, int n);
  absl::StatusOr<CostCurve> MeasureAttention(std::vector<Reads> points, MonotonicNs until_ns);
  absl::StatusOr<CostCurve> Fit(const std::vector<double>& units, MonotonicNs until_ns,
                                CurveSampler::TimeRuns time);

  model::RowBatch Batch(int32_t rows) const;
  int32_t NextLayer() { return next_layer_++ % config_.n_layers; }

  device::Device& device_;
  DeviceTimer& timer_;
  const CurveSampler& sampler_;
  const model::ModelConfig& config_;
  const kv::Geometry geometry_;
  const int32_t kv_chunk_tokens_;
  std::unique_ptr<model::LayerSource> held_;  // where the model's layers lie on the host: a few of them
  std::unique_ptr<model::Transformer> transformer_;
  int64_t arena_blocks_ = 0;
  int32_t next_layer_ = 0;
  int64_t next_block_ = 0;  // of the table: where the next run of attention reads on

  device::DevicePtr memory_;     // one allocation
  device::DevicePtr hidden_;     // f32 [max(max_rows, max_head_rows), d]
  device::DevicePtr x_;          // T [max_rebuild_rows, d]
  device::DevicePtr append_;     // AppendRow [max_rows]
  device::DevicePtr positions_;  // int32 [max_rebuild_rows / block_tokens]
  device::DevicePtr row_index_;  // int32 [max_head_rows]
  device::DevicePtr sequences_;  // AttentionSequence [kSequencesMax, and one more a chunk]
  device::DevicePtr blocks_;     // AttentionBlock [TableBlocks()]
  device::SlotArena arena_;

  // Sources of copies: untouched until those are complete.
  std::vector<device::AppendRow> append_rows_;
  std::vector<int32_t> block_positions_;
  std::vector<int32_t> head_rows_;
  std::vector<device::AttentionSequence> sequence_rows_;
  std::vector<device::AttentionBlock> block_rows_;
  std::vector<Call> calls_;
  std::vector<device::SampleRow> sample_rows_;
  std::vector<device::SampleResult> sample_results_;
};

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_LAYER_METER_H_
