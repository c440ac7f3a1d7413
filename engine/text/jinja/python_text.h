// Python's view of strings: characters are code points, whitespace is Unicode's. Offsets are in bytes unless
// a name says characters. REQUIRES of all: valid UTF-8.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_PYTHON_TEXT_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_PYTHON_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/text/jinja/tainted_text.h"

namespace spillway::text::jinja {

// str.isspace() of one character.
bool IsPythonSpace(char32_t c);

size_t CharacterCount(absl::string_view text);
// Byte offset of each character, and at the end the text's size.
std::vector<size_t> CharacterOffsets(absl::string_view text);

// Offset of the first `needle` at or behind `from`, or npos. Takes linear time whatever the two are.
size_t FindText(absl::string_view text, absl::string_view needle, size_t from);

// A part of a text.
struct TextRange {
  size_t begin;
  size_t end;
};

// str.strip, lstrip and rstrip: without `chars`, whitespace.
TextRange Strip(absl::string_view text, const std::string* chars, bool left, bool right);
// str.split(None, max_splits); negative: no limit.
std::vector<TextRange> SplitAtSpaces(absl::string_view text, int64_t max_splits);
// str.splitlines(keepends).
std::vector<TextRange> SplitLines(absl::string_view text, bool keep_ends);

// Case by Unicode's simple mappings, one character to one: "ß" stays as it is where Python writes "SS".
enum class Case {
  kUpper,
  kLower,
  kTitle,        // str.title: upper case behind anything that has no case
  kWordTitle,    // Jinja's filter: behind spaces, hyphens and opening brackets only
  kCapitalized,  // the first character alone
};
TaintedText ToCase(const TaintedText& text, Case to);

// Shortest text that reads back as the same double, in Python's spelling: "1.0", "1e+16", "nan".
std::string FloatRepr(double number);

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_PYTHON_TEXT_H_
