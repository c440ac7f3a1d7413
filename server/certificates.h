// What is in PEM files, and whether a daemon can serve with it. Free functions over text; thread-safe. The
// only source of the server that includes OpenSSL's headers, beside what hashes tokens.
#ifndef SPILLWAY_SERVER_CERTIFICATES_H_
#define SPILLWAY_SERVER_CERTIFICATES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spillway::server {

struct CertificateFacts {
  std::string subject;  // "CN = inference.example.org"
  int64_t not_before_unix_s = 0;
  int64_t not_after_unix_s = 0;
};

// Every certificate of a PEM text, in its order: at least one. InvalidArgument with the cause otherwise; it
// does not name the file.
absl::StatusOr<std::vector<CertificateFacts>> ReadCertificates(const std::string& pem);

// What a server presents: its own certificate, and those of its file that lead from it towards a root.
struct ServerChain {
  CertificateFacts server;
  CertificateFacts first_to_expire;  // of all of them
};

// Whether a server can present `chain_pem` with the key, its own certificate first: InvalidArgument where the
// key cannot be read or is another's, where a certificate of the chain is not valid at that time, and where a
// handshake with a client that trusts the chain's end fails - a signature that is wrong, a key that is too
// weak for the TLS library or that it has no use for, a purpose that is not a server's. Whether certificates
// that do not belong to the chain, and a root, are valid is left to the clients.
absl::StatusOr<ServerChain> CheckServerChain(const std::string& chain_pem, const std::string& key_pem,
                                             int64_t unix_s);

// InvalidArgument where the certificate is not valid at that time.
absl::Status CheckValidAt(const CertificateFacts& certificate, int64_t unix_s);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_CERTIFICATES_H_
