#include "base/sha256.h"

#include <openssl/sha.h>

namespace spillway {

Sha256Digest Sha256(absl::string_view bytes) {
  Sha256Digest digest;
  static_assert(sizeof(digest) == SHA256_DIGEST_LENGTH);
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

}  // namespace spillway
