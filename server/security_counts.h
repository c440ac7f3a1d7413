// What metrics tell of the files that the daemon trusts.
#ifndef SPILLWAY_SERVER_SECURITY_COUNTS_H_
#define SPILLWAY_SERVER_SECURITY_COUNTS_H_

#include <cstdint>
#include <optional>

namespace spillway::server {

// How often files were read again while the daemon served.
struct ReloadCounts {
  int64_t taken = 0;
  int64_t refused = 0;
  bool stale = false;  // what is in effect is not what the files say now
};

struct SecurityCounts {
  ReloadCounts tls = {};
  ReloadCounts tokens = {};
  std::optional<int64_t> certificate_expiry_unix_s = std::nullopt;  // none: plain text
  std::optional<int64_t> client_ca_expiry_unix_s = std::nullopt;
  int64_t failed_handshakes = 0;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SECURITY_COUNTS_H_
