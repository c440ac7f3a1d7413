#include "engine/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::model {
namespace {

using device::DevicePtr;
using device::StreamId;

constexpr int64_t kAlignmentBytes = 256;

device::NormKind DeviceNorm(NormKind kind) {
  return kind == NormKind::kRms ? device::NormKind::kRms : device::NormKind::kLayer;
}

device::RopeStyle DeviceRope(const ModelConfig& config) {
  if (config.position != PositionKind::kRotary) return device::RopeStyle::kNone;
  return config.rope.style == RopeStyle::kInterleaved ? device::RopeStyle::kInterleaved
                                                      : device::RopeStyle::kHalf;
}

bool IsGated(const ModelConfig& config) { return config.activation == ActivationKind::kSiluGated; }

}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(device::Device& device,
                                                                 const ModelConfig& config,
                                                                 const ModelWeights& weights,
                                                                 const TransformerLimits& limits,
                                                                 const LayerSource* layers) {
  SPILLWAY_CHECK(limits.max_rows > 0 && limits.max_head_rows > 0);
  std::unique_ptr<Transformer> transformer(
      new Transformer(device, config, weights, limits, layers != nullptr ? *layers : weights));
  if (limits.max_rebuild_rows > 0) SPILLWAY_RETURN_IF_ERROR(transformer->SliceRebuildMatrices());
  SPILLWAY_RETURN_IF_ERROR(transformer->AllocateScratch());
  SPILLWAY_RETURN_IF_ERROR(transformer->WarmUp());
  return transformer;
}

Transformer::Transformer(device::Device& device, const ModelConfig& config, const ModelWeights& weights,
                         const TransformerLimits& limits, const LayerSource& layers)
    : device_(device), config_(config), weights_(weights), layers_(layers), limits_(limits) {}

Transformer::~Transformer() {
  if (scratch_) device_.Free(scratch_);
}

std::vector<Transformer::Buffer> Transformer::Buffers(const ModelConfig& config, device::DType dtype,
                                                      const TransformerLimits& limits) {
  using T = Transformer;
  const int64_t element_bytes = device::SizeOf(dtype);
  const int64_t rows = limits.max_rows;
  const int64_t d_ff = config.d_ff;
  std::vector<Buffer> buffers = {
      {&T::normed_, std::max(rows, int64_t{limits.max_head_rows}) * config.d_model * element_bytes},
      {&T::qkv_, rows * (config.d_q() + 2 * config.d_kv()) * element_bytes},
      {&T::acc_, rows * config.d_q() * 4},
      {&T::max_, rows * config.n_heads * 4},
      {&T::sum_, rows * config.n_heads * 4},
      {&T::attended_, rows * config.d_q() * element_bytes},
      {&T::up_, rows * (IsGated(config) ? 2 * d_ff : d_ff) * element_bytes},
      {&T::logits_, int64_t{limits.max_head_rows} * config.vocab_size * 4},
      {&T::rebuilt_, limits.max_rebuild_rows * 2 * config.d_kv() * element_bytes},
  };
  if (IsGated(config)) buffers.emplace_back(&T::activated_, rows * d_ff * element_bytes);
  for (auto& [buffer, size_bytes] : buffers) {
    size_bytes = (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  }
  return buffers;
}

int64_t Transformer::ScratchBytes(const ModelConfig& config, device::DType dtype,
                                  const TransformerLimits& limits) {
  int64_t sum = 0;
  for (const auto& [buffer, size_bytes] : Buffers(config, dtype, limits)) sum += size_bytes;
  return sum;
}

absl::Status Transformer::AllocateScratch() {
  const device::DType dtype = device_.info().compute_dtype;
  scratch_bytes_ = ScratchBytes(config_, dtype, limits_);
  SPILLWAY_ASSIGN_OR_RETURN(scratch_, device_.Allocate(scratch_bytes_, "transformer scratch"));
  DevicePtr next = scratch_;
  for (const auto& [buffer, size_bytes] : Buffers(config_, dtype, limits_)) {
    this->*buffer = next;
    next = next + size_bytes;
  }
  return absl::OkStatus();
}

absl::Status Transformer::SliceRebuildMatrices() {
  for (const LayerWeights& layer : weights_.layers()) {
    SPILLWAY_ASSIGN_OR_RETURN(const device::PackedMatrix kv,
                              device_.SliceMatrix(layer.qkv, config_.d_q(), 2 * config_.d_kv()));
    rebuild_.push_back({kv, static_cast<int64_t>(kv.data.address - layer.qkv.data.address)});
  }
  return absl::OkStatus();
}

const LayerWeights& Transformer::WeightsOf(int32_t layer) const {
  SPILLWAY_DCHECK(layer >= 0 && layer < config_.n_layers);
  const LayerWeights* const weights = layers_.Find(layer);
  SPILLWAY_CHECK_MSG(weights != nullptr, "a layer is computed whose weights are not on the device");
  return *weights;
}

absl::Status Transformer::WarmUp() {
  const auto rows_up_to = [](int32_t max) {
    std::vector<int32_t> rows;
    for (int32_t r = 1; r < max; r *= 2) rows.push_back(r);
    rows.push_back(max);
    return rows;
  };
  // Layers are alike: the first one's shapes are all there are.
  const LayerWeights& layer = WeightsOf(0);
  const device::PackedMatrix matrices[] = {layer.qkv, layer.attention_output, layer.up, layer.down};
  SPILLWAY_RETURN_IF_ERROR(device_.WarmUp(matrices, rows_up_to(limits_.max_rows)));
  if (!rebuild_.empty()) {
    device::PackedMatrix kv = rebuild_.front().matrix;
    kv.data = layer.qkv.data + rebuild_.front().offset_bytes;
    SPILLWAY_RETURN_IF_ERROR(device_.WarmUp({&kv, 1}, rows_up_to(limits_.max_rebuild_rows)));
  }
  return device_.WarmUp({&weights_.head(), 1}, rows_up_to(limits_.max_head_rows));
}

void Transformer::Embed(StreamId stream, const RowBatch& batch) {
  SPILLWAY_DCHECK(batch.rows > 0 && batch.rows <= limits_.max_rows);
  device::EmbedArgs args;
  args.rows = batch.rows;
  args.d = config_.d_model;
  args.table = weights_.embedding().data;
  args.encoding = weights_.embedding().encoding;
  args.ids = batch.ids;
  args.positions = weights_.position_embedding();
  args.append = batch.append;
  args.hidden = batch.hidden;
  device_.Embed(stream, args);
}

void Transformer::Layer(StreamId stream, int32_t layer, const RowBatch& batch,
                        const device::SlotArena& arena) {
  Project(stream, layer, batch, arena);
  Attend(stream, batch, {batch.n_sequences, batch.sequences, batch.blocks, arena, batch.block_tokens},
         /*first=*/true);
  Complete(stream, layer, batch);
}

void Transformer::Norm(StreamId stream, const RowBatch& batch, DevicePtr gain, DevicePtr bias) {
  device::AddNormArgs args;
  args.kind = DeviceNorm(config_.norm);
  args.rows = batch.rows;
  args.d = config_.d_model;
  args.epsilon = config_.norm_epsilon;
  args.hidden = batch.hidden;
  args.gain = gain;
  args.bias = bias;
  args.out = normed_;
  device_.AddNorm(stream, args);
}

device::RopeAppendArgs Transformer::RopeArgs(int32_t n_heads, int32_t block_tokens,
                                             const device::SlotArena& arena) const {
  device::RopeAppendArgs args;
  args.n_heads = n_heads;
  args.n_kv_heads = config_.n_kv_heads;
  args.d_head = config_.d_head;
  args.d = config_.d_model;
  args.block_tokens = block_tokens;
  args.style = DeviceRope(config_);
  args.rope_dims = config_.rope.dims;
  args.inverse_frequency = weights_.inverse_frequency();
  args.arena = arena;
  return args;
}

void Transformer::Project(StreamId stream, int32_t layer, const RowBatch& batch,
                          const device::SlotArena& arena) {
  SPILLWAY_DCHECK(batch.rows > 0 && batch.rows <= limits_.max_rows);
  const LayerWeights& weights = WeightsOf(layer);
  Norm(stream, batch, weights.attention_norm, weights.attention_norm_bias);

  device::GemmArgs project;
  project.rows = batch.rows;
  project.in = normed_;
  project.out = qkv_;
  project.out_dtype = device_.info().compute_dtype;
  project.bias = weights.qkv_bias;
  project.next = &weights.attention_output;
  device_.Gemm(stream, weights.qkv, project);

  device::RopeAppendArgs append = RopeArgs(config_.n_heads, batch.block_tokens, arena);
  append.rows = batch.rows;
  append.qkv = qkv_;
  append.x = normed_;
  append.append = batch.append;
  device_.RopeAppend(stream, append);
}

void Transformer::Attend(StreamId stream, const RowBatch& batch, const KeyTable& keys, bool first) {
  device::PartialAttentionArgs attend;
  attend.n_sequences = keys.n_sequences;
  attend.rows = batch.rows;
  attend.n_heads = config_.n_heads;
  attend.n_kv_heads = config_.n_kv_heads;
  attend.d_head = config_.d_head;
  attend.block_tokens = keys.block_tokens;
  attend.q_stride = static_cast<int32_t>(config_.d_q() + 2 * config_.d_kv());
  attend.scale = 1.0F / std::sqrt(static_cast<float>(config_.d_head));
  attend.q = qkv_;
  attend.sequences = keys.sequences;
  attend.blocks = keys.blocks;
  attend.arena = keys.arena;
  attend.accumulate = !first;
  attend.acc = acc_;
  attend.max = max_;
  attend.sum = sum_;
  device_.PartialAttention(stream, attend);
}

void Transformer::Complete(StreamId stream, int32_t layer, const RowBatch& batch) {
  const LayerWeights& weights = WeightsOf(layer);
  device::MergeAttentionArgs merge;
  merge.rows = batch.rows;
  merge.n_heads = config_.n_heads;
  merge.d_head = config_.d_head;
  merge.n_parts = 1;
  merge.part_stride_rows = limits_.max_rows;
  merge.acc = acc_;
  merge.max = max_;
  merge.sum = sum_;
  merge.out = attended_;
  device_.MergeAttention(stream, merge);

  device::GemmArgs output;
  output.rows = batch.rows;
  output.in = attended_;
  output.out = batch.hidden;
  output.out_dtype = device::DType::kF32;
  output.bias = weights.attention_output_bias;
  output.accumulate = true;
  output.next = &weights.up;
  device_.Gemm(stream, weights.attention_output, output);

  Norm(stream, batch, weights.feed_forward_norm, weights.feed_forward_norm_bias);
  const device::PackedMatrix* next = &weights_.head();
  if (layer + 1 < config_.n_layers) {
    const LayerWeights* const next_layer = layers_.Find(layer + 1);
    next = next_layer != nullptr ? &next_layer->qkv : nullptr;
  }
  FeedForward(stream, weights, next, batch);
}

void Transformer::Rebuild(StreamId stream, int32_t layer, const RebuildBatch& batch) {
  SPILLWAY_DCHECK(batch.rows > 0 && batch.rows <= limits_.max_rebuild_rows);
  const LayerWeights& weights = WeightsOf(layer);
  const RebuildMatrix& rebuild = rebuild_[static_cast<size_t>(layer)];
  device::PackedMatrix kv = rebuild.matrix;
  kv.data = weights.qkv.data + rebuild.offset_bytes;
  device::GemmArgs project;
  project.rows = batch.rows;
  project.in = batch.x;
  project.out = rebuilt_;
  project.out_dtype = device_.info().compute_dtype;
  if (weights.qkv_bias) project.bias = weights.qkv_bias + config_.d_q() * 4;
  device_.Gemm(stream, kv, project);

  device::RopeAppendArgs append = RopeArgs(/*n_heads=*/0, batch.block_tokens, batch.arena);
  append.rows = batch.rows;
  append.qkv = rebuilt_;
  append.block_positions = batch.block_positions;
  device_.RopeAppend(stream, append);
}

void Transformer::FeedForward(StreamId stream, const LayerWeights& weights, const device::PackedMatrix* next,
                              const RowBatch& batch) {
  const device::DType dtype = device_.info().compute_dtype;
  const bool gated = IsGated(config_);

  device::GemmArgs up;
  up.rows = batch.rows;
  up.in = normed_;
  up.out = up_;
  up.out_dtype = dtype;
  up.bias = weights.up_bias;
  up.next = &weights.down;
  up.activation = gated ? device::Activation::kNone : device::Activation::kRelu;
  device_.Gemm(stream, weights.up, up);

  if (gated) {
    device::GatedActivationArgs activate;
    activate.rows = batch.rows;
    activate.d_ff = config_.d_ff;
    activate.activation = device::Activation::kSilu;
    activate.gate_up = up_;
    activate.out = activated_;
    device_.GatedActivation(stream, activate);
  }

  device::GemmArgs down;
  down.rows = batch.rows;
  down.in = gated ? activated_ : up_;
  down.out = batch.hidden;
  down.out_dtype = device::DType::kF32;
  down.bias = weights.down_bias;
  down.accumulate = true;
  down.next = next;
  device_.Gemm(stream, weights.down, down);
}

DevicePtr Transformer::Head(StreamId stream, int32_t rows, DevicePtr hidden, DevicePtr row_index) {
  SPILLWAY_DCHECK(rows > 0 && rows <= limits_.max_head_rows);
  device::AddNormArgs norm;
  norm.kind = DeviceNorm(config_.norm);
  norm.rows = rows;
  norm.d = config_.d_model;
  norm.epsilon = config_.norm_epsilon;
  norm.hidden = hidden;
  norm.gain = weights_.output_norm();
  norm.bias = weights_.output_norm_bias();
  norm.row_index = row_index;
  norm.out = normed_;
  device_.AddNorm(stream, norm);

  device::GemmArgs head;
  head.rows = rows;
  head.in = normed_;
  head.out = logits_;
  head.out_dtype = device::DType::kF32;
  const LayerWeights* const first_layer = layers_.Find(0);
  if (first_layer != nullptr) head.next = &first_layer->qkv;
  device_.Gemm(stream, weights_.head(), head);
  return logits_;
}

}  // namespace spillway::model
