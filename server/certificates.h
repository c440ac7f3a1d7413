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

// Whether a server can present the first certificate of `chain_pem` with the key: InvalidArgument where the
// key cannot be read, is another's, or is too weak for the TLS library.
absl::Status CheckServerPair(const std::string& chain_pem, const std::string& key_pem);

// InvalidArgument where the certificate is not valid at that time.
absl::Status CheckValidAt(const CertificateFacts& certificate, int64_t unix_s);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_CERTIFICATES_H_
