#include "engine/model/implied_tensors.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace spillway::model {
namespace {

class TensorList {
 public:
  explicit TensorList(const ModelConfig& config) : config_(config) {}

  void Add(std::string name, TensorRole role, std::vector<int64_t> shape) {
    tensors_.push_back({std::move(name), role, std::move(shape)});
  }
  void AddNorm(const std::string& name) {
    Add(name + ".weight", TensorRole::kGain, {config_.d_model});
    if (config_.norm == NormKind::kLayer) Add(name + ".bias", TensorRole::kBias, {config_.d_model});
  }
  void AddProjection(const std::string& name, TensorRole role, int64_t n, int64_t k) {
    Add(name + ".weight", role, {n, k});
    if (config_.has_biases) Add(name + ".bias", TensorRole::kBias, {n});
  }
  void AddLayer(int32_t layer) {
    const std::string block = absl::StrCat("blk.", layer, ".");
    const int64_t d = config_.d_model;
    AddNorm(block + "attn_norm");
    AddProjection(block + "attn_q", TensorRole::kMatrix, config_.d_q(), d);
    AddProjection(block + "attn_k", TensorRole::kMatrix, config_.d_kv(), d);
    AddProjection(block + "attn_v", TensorRole::kMatrix, config_.d_kv(), d);
    AddProjection(block + "attn_output", TensorRole::kResidual, d, config_.d_q());
    AddNorm(block + "ffn_norm");
    if (config_.activation == ActivationKind::kSiluGated) {
      AddProjection(block + "ffn_gate", TensorRole::kMatrix, config_.d_ff, d);
    }
    AddProjection(block + "ffn_up", TensorRole::kMatrix, config_.d_ff, d);
    AddProjection(block + "ffn_down", TensorRole::kResidual, d, config_.d_ff);
  }
  std::vector<ImpliedTensor> Take() { return std::move(tensors_); }

 private:
  const ModelConfig& config_;
  std::vector<ImpliedTensor> tensors_;
};

}  // namespace

std::vector<ImpliedTensor> ImpliedTensors(const ModelConfig& config) {
  const int64_t d = config.d_model;
  TensorList list(config);
  list.Add("token_embd.weight", TensorRole::kEmbedding, {config.vocab_size, d});
  if (config.position == PositionKind::kLearned) {
    list.Add("position_embd.weight", TensorRole::kEmbedding,
             {int64_t{config.context_length} + config.position_offset, d});
  }
  list.AddNorm("output_norm");
  if (!config.has_tied_embedding) list.Add("output.weight", TensorRole::kHead, {config.vocab_size, d});
  for (int32_t layer = 0; layer < config.n_layers; ++layer) list.AddLayer(layer);
  return list.Take();
}

}  // namespace spillway::model
