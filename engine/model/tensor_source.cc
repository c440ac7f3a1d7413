#include "engine/model/tensor_source.h"

#include "base/check.h"

namespace spillway::model {

device::TensorView TensorSource::Rows(const device::TensorView& tensor, int64_t first, int64_t count,
                                      std::vector<uint8_t>*) const {
  SPILLWAY_CHECK(!tensor.shape.empty() && first >= 0 && count >= 0 && count <= tensor.shape[0] - first);
  device::TensorView rows = tensor;
  rows.shape[0] = count;
  const int64_t row_bytes = tensor.shape[0] == 0 ? 0 : tensor.size_bytes / tensor.shape[0];
  rows.data = tensor.data + first * row_bytes;
  rows.size_bytes = count * row_bytes;
  return rows;
}

}  // namespace spillway::model
