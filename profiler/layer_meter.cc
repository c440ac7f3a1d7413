#include "profiler/layer_meter.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/status_macros.h"

namespace spillway::profiler {
namespace {

constexpr int64_t kAlignmentBytes = 256;
constexpr int32_t kSequencesMax = 16;
constexpr int32_t kKeysMax = 4096;         // of one sequence
constexpr int32_t kLinearProbeRows = 128;  // compute's rate matters where there are many rows
constexpr int32_t kChunksTogether = 4;     // whose rebuilding says what each more costs
constexpr uint8_t kFillByte = 0x3c;        // 0.0115 in f32 and bf16, 1.06 in f16

// 1, 2, 4 ... and `most`.
std::vector<double> Doubling(int32_t first, int32_t most) {
  std::vector<double> units;
  for (int32_t n = std::min(first, std::max(1, most / 2)); n < most; n *= 2) units.push_back(n);
  units.push_back(most);
  return units;
}

// The first layers of a model whose layers lie on the host, for all of them: they are alike. Two, so that
// each comes from memory when its turn is, as one does that was just copied.
class HeldLayers final : public model::LayerSource {
 public:
  static absl::StatusOr<std::unique_ptr<HeldLayers>> Create(device::Device& device, DeviceTimer& timer,
                                                            const model::ModelWeights& weights) {
    std::unique_ptr<HeldLayers> held(new HeldLayers(device));
    const int32_t n_layers = std::min(2, static_cast<int32_t>(weights.layers().size()));
    for (int32_t i = 0; i < n_layers; ++i) {
      SPILLWAY_ASSIGN_OR_RETURN(const device::DevicePtr memory,
                                device.Allocate(weights.LayerBytes(i), "a layer of the profile"));
      held->memory_.push_back(memory);
      device.CopyIn(timer.compute(), memory, weights.HostLayer(i), weights.LayerBytes(i));
      held->layers_.push_back(weights.LayerAt(i, memory));
    }
    SPILLWAY_RETURN_IF_ERROR(timer.Drain(timer.compute()));
    return held;
  }
  ~HeldLayers() override {
    for (const device::DevicePtr memory : memory_) device_.Free(memory);
  }
  const model::LayerWeights* Find(int32_t layer) const override {
    return &layers_[static_cast<size_t>(layer) % layers_.size()];
  }

 private:
  explicit HeldLayers(device::Device& device) : device_(device) {}

  device::Device& device_;
  std::vector<device::DevicePtr> memory_;
  std::vector<model::LayerWeights> layers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LayerMeter>> LayerMeter::Create(
    device::Device& device, DeviceTimer& timer, const CurveSampler& sampler, const model::ModelConfig& config,
    const model::ModelWeights& weights, const kv::Geometry& geometry, const model::TransformerLimits& limits,
    int32_t kv_chunk_tokens) {
  std::unique_ptr<LayerMeter> meter(
      new LayerMeter(device, timer, sampler, config, geometry, kv_chunk_tokens));
  if (weights.layers_on_host()) {
    SPILLWAY_ASSIGN_OR_RETURN(meter->held_, HeldLayers::Create(device, timer, weights));
  }
  SPILLWAY_ASSIGN_OR_RETURN(meter->transformer_,
                            model::Transformer::Create(device, config, weights, limits, meter->held_.get()));
  SPILLWAY_RETURN_IF_ERROR(meter->Allocate());
  SPILLWAY_RETURN_IF_ERROR(meter->Prepare());
  return meter;
}

LayerMeter::LayerMeter(device::Device& device, DeviceTimer& timer, const CurveSampler& sampler,
                       const model::ModelConfig& config, const kv::Geometry& geometry,
                       int32_t kv_chunk_tokens)
    : device_(device),
      timer_(timer),
      sampler_(sampler),
      config_(config),
      geometry_(geometry),
      kv_chunk_tokens_(kv_chunk_tokens) {}

int32_t LayerMeter::ChunkBlocks() const {
  if (kv_chunk_tokens_ <= 0) return kSequencesMax * kKeysMax;  // more than there are
  return std::max(1, kv_chunk_tokens_ / geometry_.block_tokens);
}

int64_t LayerMeter::TableBlocks() const { return kSequencesMax * geometry_.blocks_for(kKeysMax); }

LayerMeter::~LayerMeter() {
  if (timer_.stalled()) {
    (void)transformer_.release();  // leaked on purpose: they may still be in use
    (void)held_.release();
    return;
  }
  if (memory_) device_.Free(memory_);
}

absl::Status LayerMeter::Allocate() {
  const model::TransformerLimits& limits = transformer_->limits();
  const int64_t rows = std::max(limits.max_rows, limits.max_rebuild_rows);
  const int64_t free_bytes = device_.info().memory_bytes - device_.allocated_bytes();
  const int64_t arena_bytes = std::clamp<int64_t>(free_bytes / 4, 0, kArenaBytes);
  // Tables fit any of our calls: every sequence with all the keys that a single one may have.
  const int64_t table_blocks = TableBlocks();
  arena_blocks_ = std::max(geometry_.blocks_for(rows),
                           std::min(arena_bytes / (2 * geometry_.slot_bytes()), table_blocks));
  const int64_t table_sequences = kSequencesMax + table_blocks / ChunkBlocks() + 1;
  arena_.slot_bytes = geometry_.slot_bytes();
  const std::pair<device::DevicePtr*, int64_t> parts[] = {
      {&hidden_, int64_t{std::max(limits.max_rows, limits.max_head_rows)} * config_.d_model * 4},
      {&x_, int64_t{limits.max_rebuild_rows} * geometry_.chi_bytes()},
      {&append_, limits.max_rows * static_cast<int64_t>(sizeof(device::AppendRow))},
      {&positions_, rows * static_cast<int64_t>(sizeof(int32_t))},
      {&row_index_, int64_t{limits.max_head_rows} * 4},
      {&sequences_, table_sequences * static_cast<int64_t>(sizeof(device::AttentionSequence))},
      {&blocks_, table_blocks * static_cast<int64_t>(sizeof(device::AttentionBlock))},
      {&arena_.base, 2 * arena_blocks_ * geometry_.slot_bytes()},
  };
  std::vector<int64_t> offsets;
  int64_t size_bytes = 0;
  for (const auto& [pointer, part_bytes] : parts) {
    offsets.push_back(size_bytes);
    size_bytes += (part_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  }
  SPILLWAY_ASSIGN_OR_RETURN(memory_, device_.Allocate(size_bytes, "layers of the profile"));
  for (size_t i = 0; i < offsets.size(); ++i) *parts[i].first = memory_ + offsets[i];
  device_.Fill(timer_.compute(), memory_, kFillByte, size_bytes);
  return absl::OkStatus();
}

absl::Status LayerMeter::Prepare() {
  const model::TransformerLimits& limits = transformer_->limits();
  for (int32_t i = 0; i < limits.max_rows; ++i) {
    const int32_t block = i / geometry_.block_tokens;
    append_rows_.push_back({2 * block, 2 * block + 1, -1, i % geometry_.block_tokens, i});
  }
  for (int32_t at = 0; at < limits.max_rebuild_rows; at += geometry_.block_tokens)
    block_positions_.push_back(at);
  head_rows_.resize(static_cast<size_t>(limits.max_head_rows));
  std::iota(head_rows_.begin(), head_rows_.end(), 0);
  device::SampleRow sample{};
  sample.temperature = 1;
  sample.top_p = 1;
  sample.repetition_penalty = 1;
  sample.n_logprobs = -1;
  sample_rows_.assign(head_rows_.size(), sample);
  sample_results_.resize(head_rows_.size());
  device_.CopyIn(timer_.compute(), append_, append_rows_.data(),
                 static_cast<int64_t>(append_rows_.size() * sizeof(device::AppendRow)));
  device_.CopyIn(timer_.compute(), positions_, block_positions_.data(),
                 static_cast<int64_t>(block_positions_.size() * sizeof(int32_t)));
  device_.CopyIn(timer_.compute(), row_index_, head_rows_.data(),
                 static_cast<int64_t>(head_rows_.size() * sizeof(int32_t)));
  SPILLWAY_RETURN_IF_ERROR(timer_.Drain(timer_.compute()));
  // The scratch that the linear part reads and does not write is attention's: filled by one of all rows.
  SPILLWAY_RETURN_IF_ERROR(TabulateReads({1, limits.max_rows, geometry_.block_tokens}));
  const model::RowBatch batch = Batch(limits.max_rows);
  transformer_->Project(timer_.compute(), 0, batch, arena_);
  transformer_->Attend(timer_.compute(), batch, {1, sequences_, blocks_, arena_, geometry_.block_tokens},
                       true);
  return timer_.Drain(timer_.compute());
}

model::RowBatch LayerMeter::Batch(int32_t rows) const {
  model::RowBatch batch;
  batch.rows = rows;
  batch.hidden = hidden_;
  batch.append = append_;
  batch.block_tokens = geometry_.block_tokens;
  return batch;
}

absl::Status LayerMeter::TabulateReads(const Reads& reads) {
  sequence_rows_.clear();
  block_rows_.clear();
  calls_.clear();
  const auto per_sequence = static_cast<int32_t>(geometry_.blocks_for(reads.keys));
  const int32_t total = reads.sequences * per_sequence;
  const int32_t block_tokens = geometry_.block_tokens;
  for (int32_t first = 0; first < total; first += ChunkBlocks()) {
    // A chunk's blocks, of one sequence or of several.
    const int32_t end = std::min(total, first + ChunkBlocks());
    Call call{static_cast<int32_t>(sequence_rows_.size()), 0};
    for (int32_t b = first; b < end;) {
      const int32_t s = b / per_sequence;
      const int32_t n = std::min(end, (s + 1) * per_sequence) - b;
      const int32_t keys = std::min(n * block_tokens, reads.keys - b % per_sequence * block_tokens);
      sequence_rows_.push_back({s * reads.rows, reads.rows, reads.keys, b, n, 0, keys});
      ++call.n_sequences;
      b += n;
    }
    calls_.push_back(call);
  }
  // All of them: calls begin anywhere in the table.
  for (int64_t b = 0; b < TableBlocks(); ++b) {
    const auto block = static_cast<int32_t>(b % arena_blocks_);
    block_rows_.push_back({2 * block, 2 * block + 1});
  }
  device_.CopyIn(timer_.compute(), sequences_, sequence_rows_.data(),
                 static_cast<int64_t>(sequence_rows_.size() * sizeof(device::AttentionSequence)));
  device_.CopyIn(timer_.compute(), blocks_, block_rows_.data(),
                 static_cast<int64_t>(block_rows_.size() * sizeof(device::AttentionBlock)));
  return timer_.Drain(timer_.compute());
}

absl::StatusOr<CostCurve> LayerMeter::Fit(const std::vector<double>& units, MonotonicNs until_ns,
                                          CurveSampler::TimeRuns time) {
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<CostSample> samples, sampler_.Sample(units, until_ns, time));
  return FitConvex(samples);
}

absl::StatusOr<double> LayerMeter::TimeLinear(int32_t rows, int n) {
  const model::RowBatch batch = Batch(rows);
  return timer_.Time(timer_.compute(), [&] {
    for (int i = 0; i < n; ++i) {
      const int32_t layer = NextLayer();
      transformer_->Project(timer_.compute(), layer, batch, arena_);
      transformer_->Complete(timer_.compute(), layer, batch);
    }
  });
}

absl::StatusOr<CostCurve> LayerMeter::MeasureLinear(MonotonicNs until_ns) {
  return Fit(Doubling(1, transformer_->limits().max_rows), until_ns,
             [&](double units, int n) { return TimeLinear(static_cast<int32_t>(units), n); });
}

absl::StatusOr<double> LayerMeter::MeasureLinearOnce(MonotonicNs until_ns) {
  const int32_t rows = std::min(kLinearProbeRows, transformer_->limits().max_rows);
  return sampler_.SampleOne(rows, until_ns,
                            [&](double units, int n) { return TimeLinear(static_cast<int32_t>(units), n); });
}

absl::StatusOr<CostCurve> LayerMeter::MeasureRebuild(MonotonicNs until_ns) {
  const int32_t block_tokens = geometry_.block_tokens;
  const int32_t chunk_tokens = transformer_->limits().max_rebuild_rows;
  std::vector<double> units = Doubling(1, chunk_tokens / block_tokens);
  for (double& blocks : units) blocks *= block_tokens;
  units.push_back(kChunksTogether * chunk_tokens);
  return Fit(units, until_ns, [&](double tokens, int n) {
    model::RebuildBatch batch;
    batch.rows = std::min(static_cast<int32_t>(tokens), chunk_tokens);
    n *= static_cast<int32_t>(tokens) / batch.rows;
    batch.x = x_;
    batch.block_positions = positions_;
    batch.arena = arena_;
    batch.block_tokens = block_tokens;
    return timer_.Time(timer_.compute(), [&] {
      for (int i = 0; i < n; ++i) transformer_->Rebuild(timer_.compute(), NextLayer(), batch);
    });
  });
}

absl::StatusOr<CostCurve> LayerMeter::MeasureAttention(std::vector<Reads> points, MonotonicNs until_ns) {
  std::vector<double> units;
  for (const Reads& reads : points) units.push_back(reads.total());
  const Reads* tabulated = nullptr;
  return Fit(units, until_ns, [&](double total, int n) -> absl::StatusOr<double> {
    const auto reads =
        std::find_if(points.begin(), points.end(), [total](const Reads& r) { return r.total() == total; });
    if (tabulated != &*reads) SPILLWAY_RETURN_IF_ERROR(TabulateReads(*reads));
    tabulated = &*reads;
    const model::RowBatch batch = Batch(reads->sequences * reads->rows);
    const int64_t run_blocks = reads->sequences * geometry_.blocks_for(reads->keys);
    return timer_.Time(timer_.compute(), [&] {
      for (int i = 0; i < n; ++i) {
        if (next_block_ + run_blocks > TableBlocks()) next_block_ = 0;
        const device::DevicePtr blocks =
            blocks_ + next_block_ * static_cast<int64_t>(sizeof(device::AttentionBlock));
        next_block_ += run_blocks;
        for (const Call& call : calls_) {
          const model::KeyTable keys{
              call.n_sequences,
              sequences_ + call.first * static_cast<int64_t>(sizeof(device::AttentionSequence)), blocks,
              arena_, geometry_.block_tokens};
          // What comes in chunks is merged into what was attended to before.
          transformer_->Attend(timer_.compute(), batch, keys, /*first=*/calls_.size() == 1);
        }
      }
    });
  });
}

absl::StatusOr<CostCurve> LayerMeter::MeasureDecodeAttention(MonotonicNs until_ns) {
  const int32_t most = std::min(kSequencesMax, transformer_->limits().max_rows);
  return MeasureAttention({{1, 1, 128},
                           {1, 1, 512},
                           {std::min(4, most), 1, 768},
                           {std::min(8, most), 1, 1024},
                           {most, 1, 2048},
                           {most, 1, kKeysMax}},
                          until_ns);
}

absl::StatusOr<CostCurve> LayerMeter::MeasurePrefillAttention(MonotonicNs until_ns) {
  const int32_t rows = transformer_->limits().max_rows;
  const int32_t few = std::max(1, rows / 4);
  return MeasureAttention(
      {{1, few, 128}, {1, few, 256}, {1, rows, 256}, {1, rows, 1024}, {1, rows, kKeysMax}}, until_ns);
}

absl::StatusOr<CostCurve> LayerMeter::MeasureHead(MonotonicNs until_ns) {
  return Fit(Doubling(1, transformer_->limits().max_head_rows), until_ns, [&](double units, int n) {
    const auto rows = static_cast<int32_t>(units);
    return timer_.Time(timer_.compute(), [&] {
      for (int i = 0; i < n; ++i) {
        device::SampleArgs sample;
        sample.rows = rows;
        sample.vocab = config_.vocab_size;
        sample.logits = transformer_->Head(timer_.compute(), rows, hidden_, row_index_);
        sample.sample = sample_rows_.data();
        sample.results = sample_results_.data();
        device_.Sample(timer_.compute(), sample);
      }
    });
  });
}

}  // namespace spillway::profiler
