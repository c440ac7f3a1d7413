#include "server/socket_facts.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <linux/tcp.h>  // its tcp_info has more than that of netinet/tcp.h
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace spillway::server {

std::optional<SocketBytes> BytesOf(int socket) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return std::nullopt;
  // Older systems know less.
  if (size < offsetof(tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received)) return std::nullopt;
  // Looked at after the count: what comes in between makes it less.
  int unread = 0;
  if (ioctl(socket, SIOCINQ, &unread) != 0) return std::nullopt;
  return SocketBytes{static_cast<int64_t>(info.tcpi_bytes_received) - unread,
                     static_cast<int64_t>(info.tcpi_bytes_acked)};
}

std::string PeerOf(int socket) {
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return "";
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto v4 = [&text](const in_addr& address, in_port_t port) {
    inet_ntop(AF_INET, &address, text.data(), text.size());
    return absl::StrCat("ipv4:", text.data(), ":", ntohs(port));
  };
  if (peer.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(peer);
    return v4(in.sin_addr, in.sin_port);
  }
  if (peer.ss_family != AF_INET6) return "";
  const auto& in6 = reinterpret_cast<const sockaddr_in6&>(peer);
  if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
    in_addr address{};
    address.s_addr = reinterpret_cast<const uint32_t*>(in6.sin6_addr.s6_addr)[3];
    return v4(address, in6.sin6_port);
  }
  inet_ntop(AF_INET6, &in6.sin6_addr, text.data(), text.size());
  return absl::StrCat("ipv6:%5B", text.data(), "%5D:", ntohs(in6.sin6_port));
}

}  // namespace spillway::server
