// UTF-8, as far as a client must know it: protobuf refuses strings that are not.
#ifndef SPILLWAY_CLIENT_UTF8_H_
#define SPILLWAY_CLIENT_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace spillway::client {

// Bytes of the longest prefix that is valid UTF-8 (no overlong forms, no surrogates, at most U+10FFFF).
size_t ValidUtf8Prefix(absl::string_view text);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_UTF8_H_
