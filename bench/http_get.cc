#include "bench/http_get.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace spillway::bench {
namespace {

constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr timeval kTimeout = {5, 0};  // of connecting and sending, and of each read

struct Url {
  std::string host;
  std::string port;
  std::string path;
};

absl::StatusOr<Url> ParseUrl(absl::string_view text) {
  Url url;
  absl::string_view rest = text;
  absl::ConsumePrefix(&rest, "http://");
  const size_t slash = rest.find('/');
  url.path = slash == absl::string_view::npos ? "/metrics" : std::string(rest.substr(slash));
  rest = rest.substr(0, slash);
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos || colon == 0 || colon + 1 == rest.size()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not http://HOST:PORT/PATH"));
  }
  absl::string_view host = rest.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  url.host = std::string(host);
  url.port = std::string(rest.substr(colon + 1));
  return url;
}

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

absl::Status CannotReach(const Url& url, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("cannot reach http://", url.host, ":", url.port, ": ", why));
}

absl::StatusOr<std::string> Exchange(int fd, const Url& url) {
  const std::string request =
      absl::StrCat("GET ", url.path, " HTTP/1.0\r\nHost: ", url.host, "\r\nConnection: close\r\n\r\n");
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t n = send(fd, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return CannotReach(url, std::strerror(errno));
    sent += static_cast<size_t>(n);
  }
  std::string reply;
  char buffer[16384];
  while (true) {
    const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    if (n == 0) return reply;
    if (n < 0) return CannotReach(url, std::strerror(errno));
    reply.append(buffer, static_cast<size_t>(n));
    if (reply.size() > kMaxBytes) return absl::ResourceExhaustedError("the reply is longer than 16 MiB");
  }
}

}  // namespace

absl::StatusOr<std::string> HttpGet(absl::string_view text) {
  SPILLWAY_ASSIGN_OR_RETURN(const Url url, ParseUrl(text));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* addresses = nullptr;
  if (const int error = getaddrinfo(url.host.c_str(), url.port.c_str(), &hints, &addresses); error != 0) {
    return CannotReach(url, gai_strerror(error));
  }
  std::string why = "no address";
  int fd = -1;
  for (const addrinfo* address = addresses; address != nullptr && fd < 0; address = address->ai_next) {
    fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol);
    if (fd < 0) continue;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kTimeout, sizeof(kTimeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kTimeout, sizeof(kTimeout));
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0) {
      why = std::strerror(errno);
      close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(addresses);
  if (fd < 0) return CannotReach(url, why);
  const Socket socket(fd);

  SPILLWAY_ASSIGN_OR_RETURN(const std::string reply, Exchange(socket.fd(), url));
  const size_t line_end = reply.find("\r\n");
  const size_t body = reply.find("\r\n\r\n");
  const absl::string_view status_line = absl::string_view(reply).substr(0, line_end);
  if (body == std::string::npos || !absl::StartsWith(status_line, "HTTP/1.") ||
      !absl::StrContains(status_line, " 200")) {
    return absl::InternalError(absl::StrCat("http://", url.host, ":", url.port, url.path, " answered \"",
                                            status_line.substr(0, 80), "\""));
  }
  return reply.substr(body + 4);
}

}  // namespace spillway::bench
