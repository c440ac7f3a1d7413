// Weights that no file holds: made from a configuration and a seed, for benchmarks of any shape.
#ifndef SPILLWAY_ENGINE_MODEL_RANDOM_WEIGHTS_H_
#define SPILLWAY_ENGINE_MODEL_RANDOM_WEIGHTS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "engine/device/tensor.h"
#include "engine/model/fingerprint.h"
#include "engine/model/implied_tensors.h"
#include "engine/model/model_config.h"
#include "engine/model/tensor_source.h"

namespace spillway::model {

// A weight depends on (seed, tensor name, its place in the tensor, standard deviation) alone: neither
// threads nor the order of reading change it. Matrices are BF16, so that bf16 and f32 devices compute with
// the same values; gains and biases are F32.
//
// Matrices can be Q4_K instead, for the speed of 4-bit weights: of the same mean and deviation, but equally
// distributed, every scale the same. A matrix whose rows are no whole blocks stays BF16.
//
// Bell-shaped (a sum of four uniform draws), scaled as for training from scratch: 1/sqrt(inputs), divided by
// sqrt(2 * layers) where the product joins the residual stream (GPT-2), gains about 1. So activations stay
// near 1 through any number of layers, attention is neither flat nor sharp, and logits are about normal.
class RandomTensors : public TensorSource {
 public:
  // `name` is what errors call it. REQUIRES: `matrices` is kBF16 or kQ4_K.
  RandomTensors(const ModelConfig& config, uint64_t seed, std::string name,
                device::Encoding matrices = device::Encoding::kBF16);

  const std::string& path() const override { return name_; }
  const device::TensorView* FindTensor(absl::string_view name) const override;
  device::TensorView Rows(const device::TensorView& tensor, int64_t first, int64_t count,
                          std::vector<uint8_t>* room) const override;

  // Of the seed and every tensor's name, shape, encoding and standard deviation, and of what else of the
  // configuration the arithmetic depends on.
  absl::StatusOr<ModelFingerprint> Fingerprint() const;

 private:
  struct Entry {
    device::TensorView view;  // without data
    double center = 0;
    double spread = 0;  // standard deviation
    uint64_t key = 0;
  };

  const std::string name_;
  const ModelConfig config_;
  const uint64_t seed_;
  std::vector<Entry> entries_;
  absl::flat_hash_map<std::string, size_t> index_;  // name -> place in entries_
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_RANDOM_WEIGHTS_H_
