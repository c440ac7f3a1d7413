// HOST:PORT, and why one cannot be listened on. Free functions.
#ifndef SPILLWAY_SERVER_NETWORK_ADDRESS_H_
#define SPILLWAY_SERVER_NETWORK_ADDRESS_H_

#include <string>

#include "absl/strings/string_view.h"

namespace spillway::server {

struct HostPort {
  std::string host;  // without the brackets of IPv6
  std::string port;
};

// REQUIRES: the form was checked (FlagType::kAddress).
HostPort SplitHostPort(absl::string_view address);
// `address` with its port replaced by the one that was bound.
std::string WithPort(absl::string_view address, int port);

// Connects and closes again; whether it worked does not matter.
void Connect(absl::string_view address);

// What the system says when one tries: "address already in use", "no such host", ...; for libraries that do
// not tell.
std::string WhyNotBound(absl::string_view address);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_NETWORK_ADDRESS_H_
