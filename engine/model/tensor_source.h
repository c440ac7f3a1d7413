// Where a model's tensors come from: a file, a directory of files, or a generator.
#ifndef SPILLWAY_ENGINE_MODEL_TENSOR_SOURCE_H_
#define SPILLWAY_ENGINE_MODEL_TENSOR_SOURCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/device/tensor.h"

namespace spillway::model {

// Thread-safe once made.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // What errors call the source.
  virtual const std::string& path() const = 0;

  // `name` is GGUF's ("blk.0.attn_q.weight", engine/model/implied_tensors.h), whatever the source's own is.
  // Null when there is none. The pointer lives as long as the source; its `data` may be null, so read it with
  // Rows.
  virtual const device::TensorView* FindTensor(absl::string_view name) const = 0;

  // Rows (or elements, of a vector) [first, first + count) with their bytes. A source that makes them writes
  // them to `room`; else the view borrows the source's. REQUIRES: `tensor` is one that FindTensor gave.
  virtual device::TensorView Rows(const device::TensorView& tensor, int64_t first, int64_t count,
                                  std::vector<uint8_t>* room) const;

 protected:
  TensorSource() = default;
  TensorSource(const TensorSource&) = default;
  TensorSource& operator=(const TensorSource&) = default;
  TensorSource(TensorSource&&) = default;
  TensorSource& operator=(TensorSource&&) = default;
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_TENSOR_SOURCE_H_
