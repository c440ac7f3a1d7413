#include "engine/text/byte_level.h"

#include <array>

#include "engine/text/utf8.h"

namespace spillway::text {
namespace {

struct Tables {
  std::array<char32_t, 256> character_of_byte{};
  std::array<int16_t, 0x144> byte_of_character{};  // -1: spells nothing
};

constexpr Tables MakeTables() {
  Tables tables;
  for (auto& byte : tables.byte_of_character) byte = -1;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
    const char32_t character = itself ? static_cast<char32_t>(byte) : next++;
    tables.character_of_byte[byte] = character;
    tables.byte_of_character[character] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

}  // namespace

char32_t ByteLevelCharacter(uint8_t byte) { return kTables.character_of_byte[byte]; }

std::optional<std::string> DecodeByteLevel(absl::string_view spelling) {
  std::string bytes;
  bytes.reserve(spelling.size());
  while (!spelling.empty()) {
    const Utf8Step step = NextUtf8(spelling);
    if (step.kind != Utf8Step::Kind::kCharacter || step.code_point >= kTables.byte_of_character.size()) {
      return std::nullopt;
    }
    const int16_t byte = kTables.byte_of_character[step.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    spelling.remove_prefix(step.bytes);
  }
  return bytes;
}

}  // namespace spillway::text
