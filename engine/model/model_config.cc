#include "engine/model/model_config.h"

#include "engine/model/implied_tensors.h"

namespace spillway::model {

absl::string_view NameOf(Family family) { return family == Family::kOpt ? "opt" : "llama"; }

int64_t ModelConfig::parameter_count() const {
  int64_t count = 0;
  for (const ImpliedTensor& tensor : ImpliedTensors(*this)) count += tensor.elements();
  return count;
}

}  // namespace spillway::model
