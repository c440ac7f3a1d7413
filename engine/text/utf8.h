// UTF-8 as Unicode defines it (chapter 3, table 3-7): no overlong forms, no surrogates, nothing past
// U+10FFFF.
#ifndef SPILLWAY_ENGINE_TEXT_UTF8_H_
#define SPILLWAY_ENGINE_TEXT_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace spillway::text {

// One step of reading UTF-8.
struct Utf8Step {
  enum class Kind {
    kCharacter,   // `bytes` form the character `code_point`
    kIncomplete,  // the text ends within a character that could still be completed; `bytes` is all the rest
    kInvalid,     // `bytes` can never be completed: the maximal subpart to replace by one U+FFFD
  };
  Kind kind;
  int bytes;  // 1..4
  char32_t code_point;
};

// REQUIRES: text is not empty.
Utf8Step NextUtf8(absl::string_view text);

// Offset of the first byte that is not part of a whole character, or nothing when the text is valid.
std::optional<size_t> FindInvalidUtf8(absl::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);

// Makes whole UTF-8 of a stream of bytes. Every maximal subpart of an ill-formed sequence becomes one U+FFFD,
// as Unicode recommends. Holds at most three bytes back. Thread-compatible.
class Utf8Repairer {
 public:
  // Appends to `out` the text that became certain with these bytes.
  void Append(absl::string_view bytes, std::string& out);
  // The stream ends: an unfinished character becomes U+FFFD.
  void Flush(std::string& out);

 private:
  std::string pending_;  // the beginning of a character, at most three bytes
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_UTF8_H_
