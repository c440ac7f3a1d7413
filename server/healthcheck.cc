#include "server/healthcheck.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/network_address.h"

namespace spillway::server {
namespace {

constexpr int kTimeoutS = 5;
constexpr absl::string_view kRequest = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

class Socket {
 public:
  explicit Socket(const addrinfo& address)
      : fd_(socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, address.ai_protocol)) {
    // Of connecting too, on Linux.
    const timeval timeout{.tv_sec = kTimeoutS, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  }
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }

 private:
  int fd_;
};

// The status line, or empty with errno set.
std::string StatusLine(const addrinfo& address) {
  const Socket socket(address);
  if (socket.fd() < 0 || connect(socket.fd(), address.ai_addr, address.ai_addrlen) != 0) return "";
  if (send(socket.fd(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(kRequest.size())) {
    return "";
  }
  std::string line;
  char byte = 0;
  while (line.size() < 128) {
    const ssize_t got = recv(socket.fd(), &byte, 1, 0);
    if (got < 0) return "";
    if (got == 0 || byte == '\r' || byte == '\n') break;
    line += byte;
  }
  if (line.empty()) errno = ECONNRESET;
  return line;
}

}  // namespace

absl::Status CheckHealth(absl::string_view metrics_listen) {
  if (SplitHostPort(metrics_listen).port == "0") {
    return absl::InvalidArgumentError(
        "--healthcheck: --metrics_listen has port 0, which the daemon alone knows");
  }
  const AddressList found(metrics_listen, /*flags=*/0);
  int error = found.error() == 0 ? 0 : ENXIO;
  for (const addrinfo* each = found.first(); each != nullptr; each = each->ai_next) {
    const std::string line = StatusLine(*each);
    if (absl::StartsWith(line, "HTTP/1.1 200")) return absl::OkStatus();
    if (!line.empty()) {
      return absl::UnavailableError(absl::StrCat("not ready: ", metrics_listen, "/readyz says ", line));
    }
    error = errno;
  }
  return absl::UnavailableError(
      absl::StrCat("nobody answers at ", metrics_listen, ": ", std::strerror(error)));
}

}  // namespace spillway::server
