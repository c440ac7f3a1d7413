#include "client/console.h"

#include "absl/strings/str_cat.h"

namespace spillway::client {
namespace {

std::string Escape(absl::string_view text, bool keep_line_breaks) {
  std::string escaped;
  escaped.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte == '\n' || byte == '\t') {
      escaped += keep_line_breaks ? std::string(1, text[i]) : byte == '\n' ? "\\n" : "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      absl::StrAppend(&escaped, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else if (byte == 0xC2 && next >= 0x80 && next <= 0x9F) {
      absl::StrAppend(&escaped, "\\x", absl::Hex(next, absl::kZeroPad2));
      ++i;
    } else {
      escaped.push_back(text[i]);
    }
  }
  return escaped;
}

}  // namespace

std::string EscapeForTerminal(absl::string_view text) { return Escape(text, /*keep_line_breaks=*/true); }
std::string EscapeToOneLine(absl::string_view text) { return Escape(text, /*keep_line_breaks=*/false); }

}  // namespace spillway::client
