// Transformer: a model's arithmetic, written once over Device, for every family. What differs between
// families (norms, biases, gating, rotation) is configuration.
//
// It enqueues operations on one stream and keeps no state of a sequence: the residual stream and the tables
// of a call belong to the caller, K and V lie in the caller's arena. The scratch of a call is its own, so
// calls must be ordered on one stream. Step thread only. Nothing is allocated after Create.
#ifndef SPILLWAY_ENGINE_MODEL_TRANSFORMER_H_
#define SPILLWAY_ENGINE_MODEL_TRANSFORMER_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"

namespace spillway::model {

// Ragged rows of any number of sequences, and where their keys and values lie. All device arrays.
struct RowBatch {
  int32_t rows = 0;
  int32_t n_sequences = 0;
  device::DevicePtr ids;        // int32 [rows]; read by Embed
  device::DevicePtr hidden;     // f32 [rows, d], the residual stream, in and out
  device::DevicePtr append;     // AppendRow [rows]; read by Embed, too
  device::DevicePtr sequences;  // AttentionSequence [n_sequences]; their rows are those of this batch
  device::DevicePtr blocks;     // AttentionBlock [*]
  int32_t block_tokens = 0;
};

// Keys that some of a batch's rows read: the tables and the memory of one partial attention.
struct KeyTable {
  int32_t n_sequences = 0;
  device::DevicePtr sequences;  // AttentionSequence [n_sequences]; their rows are those of the batch
  device::DevicePtr blocks;     // AttentionBlock [*]
  device::SlotArena arena;
  int32_t block_tokens = 0;
};

// Whole blocks whose K and V are computed from X again, and where they go: block b to slots 2b and 2b + 1.
struct RebuildBatch {
  int32_t rows = 0;                   // tokens
  device::DevicePtr x;                // T [rows, d]
  device::DevicePtr block_positions;  // int32 [rows / block_tokens]: of each block's first token
  device::SlotArena arena;
  int32_t block_tokens = 0;
};

struct TransformerLimits {
  int32_t max_rows = 0;          // of a RowBatch
  int32_t max_head_rows = 0;     // of a call of Head
  int32_t max_rebuild_rows = 0;  // of a RebuildBatch; 0: Rebuild is not called
};

class Transformer {
 public:
  // Allocates the scratch and builds the device's products for up to these limits. InvalidArgument where K
  // and V cannot be rebuilt from X on this device. `layers`: where they lie, null: in `weights`; it must find
  // a layer whenever that layer is computed, and layer 0 now. All references must outlive the transformer.
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(device::Device& device,
                                                             const ModelConfig& config,
                                                             const ModelWeights& weights,
                                                             const TransformerLimits& limits,
                                                             const LayerSource* layers = nullptr);
  ~Transformer();
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  const ModelConfig& config() const { return config_; }
  const TransformerLimits& limits() const { return limits_; }

  // hidden = embedding of ids, plus that of their positions where the family has one.
  void Embed(device::StreamId stream, const RowBatch& batch);
  // One layer: appends the rows' K and V to `arena` (the layer's), then attends and feeds forward; hidden is
  // updated. Project, one Attend over batch.sequences and batch.blocks, Complete.
  void Layer(device::StreamId stream, int32_t layer, const RowBatch& batch, const device::SlotArena& arena);

  // --- A layer in parts, for keys that lie in several places or arrive one after another.
  // Norm and q|k|v of the rows; appends K and V to `arena`, and where the append rows name an x_slot X, the
  // input of the projections.
  void Project(device::StreamId stream, int32_t layer, const RowBatch& batch, const device::SlotArena& arena);
  // The projected rows' attention to `keys`; the first call after Project starts anew, later ones merge.
  void Attend(device::StreamId stream, const RowBatch& batch, const KeyTable& keys, bool first);
  // Everything after attention: merge, output projection, feed forward; hidden is updated.
  void Complete(device::StreamId stream, int32_t layer, const RowBatch& batch);
  // K and V from X, bias and rotation included: what Project appended for these rows, but for the rounding of
  // another product's shape. May run between any two of the calls above. REQUIRES: max_rebuild_rows > 0.
  void Rebuild(device::StreamId stream, int32_t layer, const RebuildBatch& batch);

  // Logits of rows hidden[row_index[0..rows)]: f32 [rows, vocab] in scratch, valid until the next call of
  // Head. `hidden` is not changed.
  device::DevicePtr Head(device::StreamId stream, int32_t rows, device::DevicePtr hidden,
                         device::DevicePtr row_index);

  int64_t scratch_bytes() const { return scratch_bytes_; }
  // What it is for such a model and limits.
  static int64_t ScratchBytes(const ModelConfig& config, device::DType dtype,
                              const TransformerLimits& limits);

 private:
  // A part of the scratch, and its size.
  using Buffer = std::pair<device::DevicePtr Transformer::*, int64_t>;
  static std::vector<Buffer> Buffers(const ModelConfig& config, device::DType dtype,
                                     const TransformerLimits& limits);
  Transformer(device::Device& device, const ModelConfig& config, const ModelWeights& weights,
              const TransformerLimits& limits, const LayerSource& layers);

  absl::Status AllocateScratch();
  absl::Status WarmUp();
  absl::Status SliceRebuildMatrices();
  device::RopeAppendArgs RopeArgs(int32_t n_heads, int32_t block_tokens,
                                  const device::SlotArena& arena) const;
  // `next`: what is multiplied after it; null: not known.
  void FeedForward(device::StreamId stream, const LayerWeights& weights, const device::PackedMatrix* next,
                   const RowBatch& batch);
  const LayerWeights& WeightsOf(int32_t layer) const;
  void Norm(device::StreamId stream, const RowBatch& batch, device::DevicePtr gain, device::DevicePtr bias);

  device::Device& device_;
  const ModelConfig config_;
  const ModelWeights& weights_;
  const LayerSource& layers_;
  const TransformerLimits limits_;

  // One allocation; m = max_rows. Buffers whose lives do not overlap are still apart: they are small.
  device::DevicePtr scratch_;
  int64_t scratch_bytes_ = 0;
  device::DevicePtr normed_;     // T [max(m, max_head_rows), d]
  device::DevicePtr qkv_;        // T [m, d_q + 2 * d_kv]
  device::DevicePtr acc_;        // f32 [m, n_heads, d_head]
  device::DevicePtr max_;        // f32 [m, n_heads]
  device::DevicePtr sum_;        // f32 [m, n_heads]
  device::DevicePtr attended_;   // T [m, d_q]
  device::DevicePtr up_;         // T [m, 2 * d_ff] gated, else [m, d_ff]
  device::DevicePtr activated_;  // T [m, d_ff]; gated only
  device::DevicePtr logits_;     // f32 [max_head_rows, vocab]
  device::DevicePtr rebuilt_;    // T [max_rebuild_rows, 2 * d_kv]

  // K | V of qkv, [2 * d_kv, d], where max_rebuild_rows > 0: at so many bytes from where qkv lies.
  struct RebuildMatrix {
    device::PackedMatrix matrix;
    int64_t offset_bytes = 0;
  };
  std::vector<RebuildMatrix> rebuild_;  // [n_layers]
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_TRANSFORMER_H_
