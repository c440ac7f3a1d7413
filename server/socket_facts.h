// What the system knows of a connected socket. Free functions; thread-safe.
#ifndef SPILLWAY_SERVER_SOCKET_FACTS_H_
#define SPILLWAY_SERVER_SOCKET_FACTS_H_

#include <optional>
#include <string>

#include "server/call_traffic.h"

namespace spillway::server {

// None where the system does not count them.
std::optional<SocketBytes> BytesOf(int socket);

// The peer as gRPC names it: "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000". Empty where it has none.
std::string PeerOf(int socket);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SOCKET_FACTS_H_
