#include "engine/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spillway::model {
namespace {

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

absl::Status SystemError(const std::string& path, absl::string_view action, absl::string_view remedy) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot ", action, "; ", remedy));
}

}  // namespace

MappedFile::Stamp MappedFile::StampOf(const struct stat& info) {
  return Stamp{.size_bytes = info.st_size, .modified_ns = Nanoseconds(info.st_mtim)};
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  MappedFile file;
  file.path_ = path;
  // Non-blocking, so that a named pipe is refused below instead of waited for.
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) return SystemError(path, "open it", "give the path of a readable model");
  struct stat info = {};
  if (fstat(file.fd_, &info) != 0) return SystemError(path, "stat it", "give the path of a readable model");
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": not a regular file; give the path of a GGUF file or of a Hugging Face directory"));
  }
  if (info.st_size == 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": the file is empty; fetch it again"));
  }
  file.opened_ = StampOf(info);
  const auto size = static_cast<size_t>(file.opened_.size_bytes);
  void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd_, 0);
  if (address == MAP_FAILED) {
    return SystemError(path, "map it", "check the limit on address space (ulimit -v)");
  }
  file.bytes_ = absl::MakeConstSpan(static_cast<const uint8_t*>(address), size);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_(std::exchange(other.bytes_, {})),
      opened_(other.opened_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  std::swap(opened_, other.opened_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
  if (fd_ >= 0) close(fd_);
}

absl::Status MappedFile::CheckUnchanged() const {
  struct stat info = {};
  if (fstat(fd_, &info) != 0) return SystemError(path_, "stat it", "check the file system");
  const Stamp now = StampOf(info);
  if (now != opened_) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": the file changed while it was read (", opened_.size_bytes, " bytes then, ",
                     now.size_bytes, " now); write models elsewhere and rename them into place"));
  }
  return absl::OkStatus();
}

}  // namespace spillway::model
