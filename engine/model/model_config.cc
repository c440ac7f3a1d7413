#include "engine/model/model_config.h"

namespace spillway::model {

int64_t ModelConfig::parameter_count() const {
  const int64_t d = d_model;
  const int64_t layer = 2 * d + 2 * d * d_q() + 2 * d * d_kv() + 3 * d * d_ff;
  return int64_t{vocab_size} * d * (has_tied_embedding ? 1 : 2) + d + n_layers * layer;
}

}  // namespace spillway::model
