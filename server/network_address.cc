#include "server/network_address.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace spillway::server {

AddressList::AddressList(absl::string_view address, int flags) {
  const HostPort parts = SplitHostPort(address);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  error_ = getaddrinfo(parts.host.c_str(), parts.port.c_str(), &hints, &first_);
}

AddressList::~AddressList() {
  if (error_ == 0) freeaddrinfo(first_);
}

HostPort SplitHostPort(absl::string_view address) {
  const size_t colon = address.rfind(':');
  absl::string_view host = address.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return {std::string(host), std::string(address.substr(colon + 1))};
}

std::string WithPort(absl::string_view address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':') + 1), port);
}

bool IsLoopback(absl::string_view address) {
  const AddressList found(address, AI_PASSIVE);
  for (const addrinfo* each = found.first(); each != nullptr; each = each->ai_next) {
    if (each->ai_family == AF_INET) {
      const in_addr& ip = reinterpret_cast<const sockaddr_in*>(each->ai_addr)->sin_addr;
      if (ntohl(ip.s_addr) >> 24 != IN_LOOPBACKNET) return false;
    } else if (each->ai_family != AF_INET6 ||
               !IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(each->ai_addr)->sin6_addr)) {
      return false;
    }
  }
  return found.first() != nullptr;
}

void Connect(absl::string_view address) {
  const AddressList found(address, /*flags=*/0);
  for (const addrinfo* each = found.first(); each != nullptr; each = each->ai_next) {
    const int fd = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
    if (fd < 0) continue;
    (void)connect(fd, each->ai_addr, each->ai_addrlen);
    close(fd);
  }
}

std::string BindErrorText(int error) {
  const std::string what = absl::AsciiStrToLower(strerror(error));
  switch (error) {
    case EADDRINUSE:
      return absl::StrCat(what, "; choose another port, or 0 for a free one");
    case EADDRNOTAVAIL:
      return absl::StrCat(what, "; give an address of this machine, or 0.0.0.0 for all of them");
    case EACCES:
      return absl::StrCat(what, "; choose a port above 1023, or grant CAP_NET_BIND_SERVICE");
    default:
      return what;
  }
}

std::string HostErrorText(int gai_error) {
  return absl::StrCat(absl::AsciiStrToLower(gai_strerror(gai_error)),
                      "; give an address or a host name of this machine");
}

std::string WhyNotBound(absl::string_view address) {
  const AddressList found(address, AI_PASSIVE);
  if (found.error() != 0) return HostErrorText(found.error());
  std::string why = "no reason known";
  for (const addrinfo* each = found.first(); each != nullptr; each = each->ai_next) {
    const int fd = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
    if (fd < 0) continue;
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, each->ai_addr, each->ai_addrlen) != 0 || listen(fd, 1) != 0) {
      why = BindErrorText(errno);
    }
    close(fd);
  }
  return why;
}

}  // namespace spillway::server
