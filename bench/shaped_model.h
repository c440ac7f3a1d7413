// A model by its shape alone, with random weights.
#ifndef SPILLWAY_BENCH_SHAPED_MODEL_H_
#define SPILLWAY_BENCH_SHAPED_MODEL_H_

#include <string>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/model/model.h"

namespace spillway::bench {

// `config_json`: a Hugging Face config.json's text; the rest as model::LoadRandomModel has it. UNAVAILABLE
// where no temporary file can be written.
absl::StatusOr<model::Model> LoadShapedModel(const std::string& config_json, device::Device& device,
                                             const model::WeightOptions& options,
                                             device::Encoding matrices = device::Encoding::kBF16);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SHAPED_MODEL_H_
