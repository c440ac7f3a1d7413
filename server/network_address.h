// HOST:PORT: its parts, its addresses, and why it cannot be listened on.
#ifndef SPILLWAY_SERVER_NETWORK_ADDRESS_H_
#define SPILLWAY_SERVER_NETWORK_ADDRESS_H_

#include <netdb.h>

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

// What getaddrinfo finds for HOST:PORT.
class AddressList {
 public:
  AddressList(absl::string_view address, int flags);
  ~AddressList();
  AddressList(const AddressList&) = delete;
  AddressList& operator=(const AddressList&) = delete;

  int error() const { return error_; }  // 0, or for gai_strerror
  addrinfo* first() const { return error_ == 0 ? first_ : nullptr; }

 private:
  addrinfo* first_ = nullptr;
  int error_ = 0;
};

// Whether only this machine can reach what listens there: every address of the host is a loopback one. False
// where the host is not found.
bool IsLoopback(absl::string_view address);

// Connects and closes again; whether it worked does not matter.
void Connect(absl::string_view address);

// An errno of socket, bind or listen for a person, with the way out: "address already in use; choose another
// port, or 0 for a free one".
std::string BindErrorText(int error);
// The same for a host that getaddrinfo does not find.
std::string HostErrorText(int gai_error);

// Why an address cannot be bound, by trying; for libraries that do not tell.
std::string WhyNotBound(absl::string_view address);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_NETWORK_ADDRESS_H_
