// The tensors that a configuration implies, under GGUF's names (github.com/ggml-org/ggml, docs/gguf.md).
#ifndef SPILLWAY_ENGINE_MODEL_IMPLIED_TENSORS_H_
#define SPILLWAY_ENGINE_MODEL_IMPLIED_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/model_config.h"

namespace spillway::model {

enum class TensorRole : uint8_t {
  kEmbedding,  // of tokens or positions
  kMatrix,     // of a product
  kResidual,   // of a product that is added to the residual stream
  kHead,
  kGain,  // of a norm
  kBias,
};

struct ImpliedTensor {
  std::string name;
  TensorRole role = TensorRole::kMatrix;
  std::vector<int64_t> shape;  // outermost first

  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
};

// What stands before the layers, the layers in order, what stands after them. A tied head is not listed.
std::vector<ImpliedTensor> ImpliedTensors(const ModelConfig& config);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_IMPLIED_TENSORS_H_
