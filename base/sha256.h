// SHA-256 (FIPS 180-4).
#ifndef SPILLWAY_BASE_SHA256_H_
#define SPILLWAY_BASE_SHA256_H_

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace spillway {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(absl::string_view bytes);

}  // namespace spillway

#endif  // SPILLWAY_BASE_SHA256_H_
