// GPT-2's way to spell bytes: printable Latin-1 characters stand for themselves, the other bytes for the
// characters from U+0100 on, so that a vocabulary of arbitrary bytes is readable text. A space is "Ġ"
// (U+0120).
#ifndef SPILLWAY_ENGINE_TEXT_BYTE_LEVEL_H_
#define SPILLWAY_ENGINE_TEXT_BYTE_LEVEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace spillway::text {

// The character that spells `byte`.
char32_t ByteLevelCharacter(uint8_t byte);

// The bytes that a token's spelling stands for; nothing when it is not spelled this way.
std::optional<std::string> DecodeByteLevel(absl::string_view spelling);

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_BYTE_LEVEL_H_
