// A file mapped read-only. Move-only; thread-safe once open.
//
// The bytes are the file's own pages: cutting the file short while they are read raises SIGBUS, and writing
// to it in place changes what is seen. Replacing a model by rename is safe, since the mapping keeps the old
// file. Whoever copies from the mapping calls CheckUnchanged afterwards.
#ifndef SPILLWAY_ENGINE_MODEL_MAPPED_FILE_H_
#define SPILLWAY_ENGINE_MODEL_MAPPED_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

struct stat;  // <sys/stat.h>

namespace spillway::model {

class MappedFile {
 public:
  // NotFound, PermissionDenied and the like as the system says; InvalidArgument for what is no regular file
  // or empty.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  // Never moves, not even when this object does.
  absl::Span<const uint8_t> bytes() const { return bytes_; }

  // FailedPrecondition when the file's size or time of modification is no longer that of Open.
  absl::Status CheckUnchanged() const;

 private:
  // What changes when somebody writes to the file. (The change time would, too, but also when it is renamed.)
  struct Stamp {
    int64_t size_bytes = 0;
    int64_t modified_ns = 0;
    bool operator==(const Stamp&) const = default;
  };

  MappedFile() = default;
  static Stamp StampOf(const struct stat& info);

  std::string path_;
  int fd_ = -1;  // kept for CheckUnchanged
  absl::Span<const uint8_t> bytes_;
  Stamp opened_;
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_MAPPED_FILE_H_
