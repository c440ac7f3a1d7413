// Ticks off a file's tensors against those that a configuration implies, so that none is missing, misshapen
// or passed over. Borrows the file. Thread-compatible.
#ifndef SPILLWAY_ENGINE_MODEL_TENSOR_CHECKLIST_H_
#define SPILLWAY_ENGINE_MODEL_TENSOR_CHECKLIST_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/model/gguf.h"

namespace spillway::model {

class TensorChecklist {
 public:
  explicit TensorChecklist(const GgufFile& file);

  // NotFound when it is missing, InvalidArgument when it has another shape (outermost first).
  absl::Status Require(const std::string& name, const std::vector<int64_t>& shape);

  // Whether the file has it; an error if it has another shape.
  absl::StatusOr<bool> Allow(const std::string& name, const std::vector<int64_t>& shape);

  // Unimplemented, by name, when a tensor was neither required nor allowed.
  absl::Status RefuseTheRest() const;

 private:
  const GgufFile& file_;
  std::set<absl::string_view> unknown_;  // ordered, so that the same file gives the same message
};

// Where a tensor's data begins in its file.
int64_t FileOffset(const GgufFile& file, const device::TensorView& tensor);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_TENSOR_CHECKLIST_H_
