#include "base/small_file.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"

namespace spillway {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool Close() { return close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

absl::Status CannotWrite() {
  return absl::UnavailableError(absl::StrCat("cannot be written: ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  // O_NONBLOCK: opening a pipe that nobody writes to must not wait.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat about {};
  if (file.get() < 0 || fstat(file.get(), &about) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot be read: ", std::strerror(errno)));
  }
  if (!S_ISREG(about.st_mode)) return absl::InvalidArgumentError("is not a regular file");
  std::string text(static_cast<size_t>(kSmallFileBytes) + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = read(file.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::NotFoundError(absl::StrCat("cannot be read: ", std::strerror(errno)));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > static_cast<size_t>(kSmallFileBytes)) {
    return absl::InvalidArgumentError(absl::StrCat("is larger than ", FormatBytes(kSmallFileBytes)));
  }
  text.resize(size);
  return text;
}

absl::Status ReplaceSmallFile(const std::string& path, absl::string_view text) {
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) return CannotWrite();
  const std::string beside = absl::StrCat(path, ".", absl::Hex(random, absl::kZeroPad16));
  Descriptor file(open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (file.get() < 0) return CannotWrite();
  if (WriteAll(file.get(), text) && fsync(file.get()) == 0 && file.Close() &&
      std::rename(beside.c_str(), path.c_str()) == 0) {
    return absl::OkStatus();
  }
  absl::Status status = CannotWrite();
  unlink(beside.c_str());
  return status;
}

}  // namespace spillway
