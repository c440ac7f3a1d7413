#include "engine/text/utf8.h"

#include <cstring>

#include "base/check.h"

namespace spillway::text {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

uint8_t ByteAt(absl::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// Length of the leading stretch of ASCII, eight bytes at a time.
size_t AsciiPrefix(absl::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080ull) break;
  }
  while (i < text.size() && ByteAt(text, i) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Step NextUtf8(absl::string_view text) {
  using Kind = Utf8Step::Kind;
  SPILLWAY_DCHECK(!text.empty());
  const uint8_t lead = ByteAt(text, 0);
  if (lead < 0x80) return {Kind::kCharacter, 1, lead};

  // The second byte's range rules out overlong forms, surrogates and what lies past U+10FFFF.
  int length;
  uint8_t low = 0x80, high = 0xBF;
  char32_t code_point;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    code_point = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    code_point = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    code_point = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Kind::kInvalid, 1, 0};
  }
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) == text.size()) return {Kind::kIncomplete, i, 0};
    const uint8_t byte = ByteAt(text, i);
    if (byte < low || byte > high) return {Kind::kInvalid, i, 0};
    low = 0x80;
    high = 0xBF;
    code_point = (code_point << 6) | (byte & 0x3F);
  }
  return {Kind::kCharacter, length, code_point};
}

std::optional<size_t> FindInvalidUtf8(absl::string_view text) {
  size_t i = 0;
  while (true) {
    i += AsciiPrefix(text.substr(i));
    if (i == text.size()) return std::nullopt;
    const Utf8Step step = NextUtf8(text.substr(i));
    if (step.kind != Utf8Step::Kind::kCharacter) return i;
    i += step.bytes;
  }
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto push = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | (code_point >> 6));
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | (code_point >> 12));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | (code_point >> 18));
    push(0x80 | ((code_point >> 12) & 0x3F));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

void Utf8Repairer::Append(absl::string_view bytes, std::string& out) {
  // Finish the character begun earlier byte by byte; what follows is read in place.
  while (!pending_.empty() && !bytes.empty()) {
    pending_.push_back(bytes[0]);
    const Utf8Step step = NextUtf8(pending_);
    if (step.kind == Utf8Step::Kind::kInvalid) {
      // The pending bytes were a beginning; only the byte just added can be wrong, and it starts anew.
      out.append(kReplacement.data(), kReplacement.size());
      pending_.clear();
      break;
    }
    bytes.remove_prefix(1);
    if (step.kind == Utf8Step::Kind::kCharacter) {
      out += pending_;
      pending_.clear();
    }
  }
  while (!bytes.empty()) {
    const size_t ascii = AsciiPrefix(bytes);
    out.append(bytes.data(), ascii);
    bytes.remove_prefix(ascii);
    if (bytes.empty()) break;
    const Utf8Step step = NextUtf8(bytes);
    switch (step.kind) {
      case Utf8Step::Kind::kCharacter:
        out.append(bytes.data(), step.bytes);
        break;
      case Utf8Step::Kind::kInvalid:
        out.append(kReplacement.data(), kReplacement.size());
        break;
      case Utf8Step::Kind::kIncomplete:
        pending_.assign(bytes.data(), bytes.size());
        break;
    }
    bytes.remove_prefix(step.bytes);
  }
}

void Utf8Repairer::Flush(std::string& out) {
  if (pending_.empty()) return;
  out.append(kReplacement.data(), kReplacement.size());
  pending_.clear();
}

}  // namespace spillway::text
