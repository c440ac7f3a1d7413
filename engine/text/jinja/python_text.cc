#include "engine/text/jinja/python_text.h"

#include <locale.h>
#include <string.h>
#include <wctype.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace spillway::text::jinja {
namespace {

bool IsLineBreak(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

// Case tables that do not depend on the process's locale. Null (a system without the locale that glibc always
// has): ASCII only.
locale_t CaseLocale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return locale;
}

char32_t Upper(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
  return CaseLocale() ? static_cast<char32_t>(towupper_l(static_cast<wint_t>(c), CaseLocale())) : c;
}

char32_t Lower(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  return CaseLocale() ? static_cast<char32_t>(towlower_l(static_cast<wint_t>(c), CaseLocale())) : c;
}

bool IsCased(char32_t c) { return Upper(c) != c || Lower(c) != c; }

bool OpensWord(char c) { return absl::string_view("-({[<").find(c) != absl::string_view::npos; }

// The first character at or behind `at`.
Utf8Step StepAt(absl::string_view text, size_t at) { return NextUtf8(text.substr(at)); }

// Where the character that ends at `end` begins.
size_t PreviousCharacter(absl::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

}  // namespace

bool IsPythonSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t CharacterCount(absl::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return count;
}

std::vector<size_t> CharacterOffsets(absl::string_view text) {
  std::vector<size_t> offsets;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(text.size());
  return offsets;
}

size_t FindText(absl::string_view text, absl::string_view needle, size_t from) {
  if (from > text.size()) return absl::string_view::npos;
  if (needle.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return found == nullptr ? absl::string_view::npos
                          : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

TextRange Strip(absl::string_view text, const std::string* chars, bool left, bool right) {
  std::vector<char32_t> set;
  for (size_t i = 0; chars != nullptr && i < chars->size();) {
    const Utf8Step step = StepAt(*chars, i);
    set.push_back(step.code_point);
    i += step.bytes;
  }
  const auto goes = [&](char32_t c) {
    return chars == nullptr ? IsPythonSpace(c) : std::find(set.begin(), set.end(), c) != set.end();
  };
  TextRange range{0, text.size()};
  while (left && range.begin < range.end) {
    const Utf8Step step = StepAt(text, range.begin);
    if (!goes(step.code_point)) break;
    range.begin += step.bytes;
  }
  while (right && range.end > range.begin) {
    const size_t begin = PreviousCharacter(text, range.end);
    if (!goes(StepAt(text, begin).code_point)) break;
    range.end = begin;
  }
  return range;
}

std::vector<TextRange> SplitAtSpaces(absl::string_view text, int64_t max_splits) {
  std::vector<TextRange> parts;
  size_t at = 0;
  while (true) {
    at += Strip(text.substr(at), nullptr, true, false).begin;
    if (at == text.size()) return parts;
    if (max_splits >= 0 && static_cast<int64_t>(parts.size()) == max_splits) {
      parts.push_back({at, text.size()});
      return parts;
    }
    size_t end = at;
    while (end < text.size()) {
      const Utf8Step step = StepAt(text, end);
      if (IsPythonSpace(step.code_point)) break;
      end += step.bytes;
    }
    parts.push_back({at, end});
    at = end;
  }
}

std::vector<TextRange> SplitLines(absl::string_view text, bool keep_ends) {
  std::vector<TextRange> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = StepAt(text, i);
    if (!IsLineBreak(step.code_point)) {
      i += step.bytes;
      continue;
    }
    size_t next = i + step.bytes;
    if (step.code_point == '\r' && next < text.size() && text[next] == '\n') ++next;
    lines.push_back({begin, keep_ends ? next : i});
    begin = i = next;
  }
  if (begin < text.size()) lines.push_back({begin, text.size()});
  return lines;
}

TaintedText ToCase(const TaintedText& text, Case to) {
  TaintedText result;
  const absl::string_view bytes = text.bytes();
  bool starts_word = true;
  std::string character;
  for (size_t i = 0; i < bytes.size();) {
    const Utf8Step step = StepAt(bytes, i);
    const char32_t c = step.code_point;
    const bool title = to == Case::kTitle || to == Case::kWordTitle;
    const bool upper = to == Case::kUpper || (title && starts_word) || (to == Case::kCapitalized && i == 0);
    character.clear();
    AppendUtf8(upper ? Upper(c) : Lower(c), character);
    result.Append(character, text.OriginAt(i));
    starts_word =
        to == Case::kTitle ? !IsCased(c) : IsPythonSpace(c) || (c < 0x80 && OpensWord(static_cast<char>(c)));
    i += step.bytes;
  }
  return result;
}

std::string FloatRepr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer;
  const double size = std::fabs(number);
  // Python writes an exponent outside this range only.
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number,
                                    plain ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer.data(), result.ptr);
  if (plain && text.find('.') == std::string::npos) text += ".0";
  return text;
}

}  // namespace spillway::text::jinja
