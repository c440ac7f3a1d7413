#include "engine/model/tensor_checklist.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "engine/model/gguf_cursor.h"

namespace spillway::model {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

int64_t FileOffset(const GgufFile& file, const device::TensorView& tensor) {
  return tensor.data - file.bytes().data();
}

TensorChecklist::TensorChecklist(const GgufFile& file) : file_(file) {
  for (const device::TensorView& tensor : file.tensors()) unknown_.insert(tensor.name);
}

absl::Status TensorChecklist::Require(const std::string& name, const std::vector<int64_t>& shape) {
  const device::TensorView* tensor = file_.FindTensor(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat(file_.path(), ": tensor '", name, "' of shape ", ShapeText(shape),
                                            " is missing; ", kDamagedFile));
  }
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        file_.path(), ": byte ", FileOffset(file_, *tensor), ": tensor '", name, "': shape ",
        ShapeText(tensor->shape), ", wanted ", ShapeText(shape), " by the file's metadata; ", kDamagedFile));
  }
  unknown_.erase(name);
  return absl::OkStatus();
}

absl::StatusOr<bool> TensorChecklist::Allow(const std::string& name, const std::vector<int64_t>& shape) {
  if (file_.FindTensor(name) == nullptr) return false;
  SPILLWAY_RETURN_IF_ERROR(Require(name, shape));
  return true;
}

absl::Status TensorChecklist::RefuseTheRest() const {
  if (unknown_.empty()) return absl::OkStatus();
  const absl::string_view name = *unknown_.begin();
  return absl::UnimplementedError(absl::StrCat(
      file_.path(), ": byte ", FileOffset(file_, *file_.FindTensor(name)), ": tensor ", Quoted(name),
      unknown_.size() > 1 ? absl::StrCat(" and ", unknown_.size() - 1, " more") : "",
      absl::EndsWith(name, ".bias") ? ": biases are not supported with architecture 'llama'"
                                    : ": not part of architecture 'llama' as Spillway knows it",
      "; leaving it out would change the results: serve another model"));
}

}  // namespace spillway::model
