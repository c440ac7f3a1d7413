// Sizes of a model's cached blocks, in the type that a device computes in.
#ifndef SPILLWAY_ENGINE_EXEC_CACHE_GEOMETRY_H_
#define SPILLWAY_ENGINE_EXEC_CACHE_GEOMETRY_H_

#include <cstdint>

#include "engine/device/types.h"
#include "engine/kv/geometry.h"
#include "engine/model/model_config.h"

namespace spillway::exec {

inline kv::Geometry CacheGeometry(const model::ModelConfig& config, device::DType dtype,
                                  int32_t block_tokens) {
  kv::Geometry geometry;
  geometry.n_layers = config.n_layers;
  geometry.n_kv_heads = config.n_kv_heads;
  geometry.d_head = config.d_head;
  geometry.d = config.d_model;
  geometry.block_tokens = block_tokens;
  geometry.element_bytes = static_cast<int32_t>(device::SizeOf(dtype));
  return geometry;
}

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_CACHE_GEOMETRY_H_
