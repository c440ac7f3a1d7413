#include "engine/text/jinja/lexer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "engine/text/jinja/python_text.h"
#include "engine/text/utf8.h"

namespace spillway::text::jinja {
namespace {

using Kind = Token::Kind;

bool IsNameStart(char c) { return absl::ascii_isalpha(c) || c == '_'; }
bool IsNamePart(char c) { return absl::ascii_isalnum(c) || c == '_'; }

class Lexer {
 public:
  explicit Lexer(absl::string_view source) : source_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) SPILLWAY_RETURN_IF_ERROR(LexTextAndTag());
    tokens_.push_back({Kind::kEnd, "", line_});
    return std::move(tokens_);
  }

 private:
  absl::string_view Rest() const { return source_.substr(at_); }
  bool Next(absl::string_view text) const { return absl::StartsWith(Rest(), text); }

  void Advance(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + bytes, '\n'));
    at_ += bytes;
  }

  absl::Status Error(int line, absl::string_view message) const {
    return absl::InvalidArgumentError(AtLine(line, message));
  }

  void Emit(Kind kind, absl::string_view text) { tokens_.push_back({kind, std::string(text), line_}); }

  // Template text up to the next tag, and that tag.
  absl::Status LexTextAndTag() {
    size_t tag = at_;
    while ((tag = source_.find('{', tag)) != absl::string_view::npos && tag + 1 < source_.size() &&
           source_[tag + 1] != '%' && source_[tag + 1] != '{' && source_[tag + 1] != '#') {
      ++tag;
    }
    if (tag == absl::string_view::npos || tag + 1 >= source_.size()) {
      Emit(Kind::kText, Rest());
      Advance(Rest().size());
      return absl::OkStatus();
    }
    absl::string_view text = source_.substr(at_, tag - at_);
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') {
      text = text.substr(0, Strip(text, nullptr, false, true).end);
    } else if (sign != '+' && kind != '{') {
      text = StripLineIndent(text, line_starting_);
    }
    if (!text.empty()) Emit(Kind::kText, text);
    Advance(tag - at_);
    const int line = line_;
    Advance(sign == '-' || sign == '+' ? 3 : 2);
    if (kind == '#') return SkipComment(line);
    if (kind == '%') {
      if (SkipWordTag("raw", /*trim_newline=*/false)) return LexRaw(line);
      Emit(Kind::kBlockBegin, "{%");
      return LexExpression(Kind::kBlockEnd, line);
    }
    Emit(Kind::kPrintBegin, "{{");
    return LexExpression(Kind::kPrintEnd, line);
  }

  // lstrip_blocks: spaces between the beginning of the line and the tag go.
  static absl::string_view StripLineIndent(absl::string_view text, bool line_starting) {
    const size_t newline = text.rfind('\n');
    const size_t line_begin = newline == absl::string_view::npos ? 0 : newline + 1;
    if (line_begin == 0 && !line_starting) return text;
    const absl::string_view indent = text.substr(line_begin);
    if (Strip(indent, nullptr, true, false).begin != indent.size()) return text;
    return text.substr(0, line_begin);
  }

  // Behind the closing marker: a "-" takes all whitespace, trim_blocks takes one newline.
  void TrimAfter(bool all, bool newline) {
    const size_t begin = at_;
    if (all) {
      Advance(Strip(Rest(), nullptr, true, false).begin);
    } else if (newline && Next("\n")) {
      Advance(1);
    }
    line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  absl::Status SkipComment(int line) {
    const size_t end = source_.find("#}", at_);
    if (end == absl::string_view::npos) return Error(line, "a comment is not closed");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    Advance(end + 2 - at_);
    TrimAfter(sign == '-', sign != '+');
    return absl::OkStatus();
  }

  // Takes ` word %}`, ` word -%}` or ` word +%}` if that is what follows.
  bool SkipWordTag(absl::string_view word, bool trim_newline) {
    const absl::string_view rest = Rest();
    size_t i = Strip(rest, nullptr, true, false).begin;
    if (!absl::StartsWith(rest.substr(i), word)) return false;
    i += word.size();
    i += Strip(rest.substr(i), nullptr, true, false).begin;
    const bool all = absl::StartsWith(rest.substr(i), "-%}");
    const bool keep = absl::StartsWith(rest.substr(i), "+%}");
    if (!all && !keep && !absl::StartsWith(rest.substr(i), "%}")) return false;
    Advance(i + (all || keep ? 3 : 2));
    TrimAfter(all, trim_newline && !keep);
    return true;
  }

  absl::Status LexRaw(int line) {
    const size_t begin = at_;
    const bool line_starting = line_starting_;
    while (true) {
      const size_t tag = source_.find("{%", at_);
      if (tag == absl::string_view::npos) return Error(line, "'raw' is not closed");
      absl::string_view text = source_.substr(begin, tag - begin);
      Advance(tag + 2 - at_);
      const bool strip = Next("-");
      const bool keep = Next("+");
      if (strip || keep) Advance(1);
      if (!SkipWordTag("endraw", /*trim_newline=*/true)) continue;
      if (strip) {
        text = text.substr(0, Strip(text, nullptr, false, true).end);
      } else if (!keep) {
        text = StripLineIndent(text, line_starting);
      }
      if (!text.empty()) Emit(Kind::kText, text);
      return absl::OkStatus();
    }
  }

  // The tokens of a tag, up to and with its end.
  absl::Status LexExpression(Kind end, int first_line) {
    const absl::string_view close = end == Kind::kBlockEnd ? "%}" : "}}";
    std::string open_brackets;
    while (true) {
      if (at_ == source_.size()) return Error(first_line, "a tag is not closed");
      if (open_brackets.empty()) {
        const bool all = Next("-") && absl::StartsWith(source_.substr(at_ + 1), close);
        const bool keep = end == Kind::kBlockEnd && Next("+%}");
        if (all || keep || Next(close)) {
          Emit(end, close);
          Advance(close.size() + (all || keep ? 1 : 0));
          TrimAfter(all, end == Kind::kBlockEnd && !keep);
          return absl::OkStatus();
        }
      }
      const char c = source_[at_];
      if (absl::ascii_isspace(c)) {
        Advance(1);
      } else if (IsNameStart(c)) {
        size_t n = 1;
        while (at_ + n < source_.size() && IsNamePart(source_[at_ + n])) ++n;
        Emit(Kind::kName, Rest().substr(0, n));
        Advance(n);
      } else if (absl::ascii_isdigit(c)) {
        SPILLWAY_RETURN_IF_ERROR(LexNumber());
      } else if (c == '\'' || c == '"') {
        SPILLWAY_RETURN_IF_ERROR(LexString());
      } else {
        SPILLWAY_RETURN_IF_ERROR(LexOperator(open_brackets));
      }
    }
  }

  absl::Status LexNumber() {
    size_t n = 0;
    const auto digits = [&] {
      while (at_ + n < source_.size() && (absl::ascii_isdigit(source_[at_ + n]) || source_[at_ + n] == '_'))
        ++n;
    };
    const auto digit_at = [&](size_t i) {
      return at_ + i < source_.size() && absl::ascii_isdigit(source_[at_ + i]);
    };
    digits();
    bool is_float = false;
    const bool index = at_ > 0 && source_[at_ - 1] == '.';  // "x.0.1" has two of them
    if (!index && Rest().substr(n, 1) == "." && digit_at(n + 1)) {
      is_float = true;
      ++n;
      digits();
    }
    if (const auto e = Rest().substr(n, 1); e == "e" || e == "E") {
      const auto sign = Rest().substr(n + 1, 1);
      const size_t skip = sign == "+" || sign == "-" ? 2 : 1;
      if (digit_at(n + skip)) {
        is_float = true;
        n += skip;
        digits();
      }
    }
    if (at_ + n < source_.size() && IsNamePart(source_[at_ + n])) {
      return Error(line_, absl::StrCat("number \"", Rest().substr(0, n + 1), "\" is not supported"));
    }
    Emit(is_float ? Kind::kFloat : Kind::kInteger, absl::StrReplaceAll(Rest().substr(0, n), {{"_", ""}}));
    Advance(n);
    return absl::OkStatus();
  }

  absl::Status LexString() {
    const int line = line_;
    const char quote = source_[at_];
    std::string value;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\') {
        value.push_back(source_[i]);
        continue;
      }
      if (++i == source_.size()) break;
      SPILLWAY_RETURN_IF_ERROR(LexEscape(i, value));
    }
    if (i >= source_.size()) return Error(line, "a string is not closed");
    tokens_.push_back({Kind::kString, std::move(value), line});
    Advance(i + 1 - at_);
    return absl::OkStatus();
  }

  // `i` is at the character behind the backslash and ends at the escape's last one. Python's rules.
  absl::Status LexEscape(size_t& i, std::string& value) {
    static constexpr absl::string_view kNames = "abfnrtv\\'\"";
    static constexpr absl::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
    const char c = source_[i];
    if (c == '\n') return absl::OkStatus();
    if (const size_t simple = kNames.find(c); simple != absl::string_view::npos) {
      value.push_back(kValues[simple]);
      return absl::OkStatus();
    }
    uint32_t code_point = 0;
    if (c >= '0' && c <= '7') {
      size_t n = 0;
      for (; n < 3 && i + n < source_.size() && source_[i + n] >= '0' && source_[i + n] <= '7'; ++n) {
        code_point = code_point * 8 + (source_[i + n] - '0');
      }
      i += n - 1;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const absl::string_view digits = source_.substr(i + 1, n);
      if (digits.size() < n || !std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit) ||
          !absl::SimpleHexAtoi(digits, &code_point) || code_point > 0x10FFFF ||
          (code_point >= 0xD800 && code_point < 0xE000)) {
        return Error(line_, absl::StrCat("escape \"\\", source_.substr(i, n + 1), "\" is not a character"));
      }
      i += n;
    } else if (c == 'N') {
      return Error(line_, "escapes by name (\\N) are not supported");
    } else {
      value.push_back('\\');
      value.push_back(c);
      return absl::OkStatus();
    }
    AppendUtf8(code_point, value);
    return absl::OkStatus();
  }

  absl::Status LexOperator(std::string& open_brackets) {
    static constexpr absl::string_view kOperators[] = {"//", "**", "==", "!=", "<=", ">=", "(", ")", "[",
                                                       "]",  "{",  "}",  ",",  ":",  ".",  "|", "~", "+",
                                                       "-",  "*",  "/",  "%",  "<",  ">",  "="};
    for (const absl::string_view op : kOperators) {
      if (!Next(op)) continue;
      if (op == "(" || op == "[" || op == "{") open_brackets += op[0];
      if (op == ")" || op == "]" || op == "}") {
        const char open = op == ")" ? '(' : op == "]" ? '[' : '{';
        if (open_brackets.empty() || open_brackets.back() != open) {
          return Error(line_, absl::StrCat("unexpected \"", op, "\""));
        }
        open_brackets.pop_back();
      }
      Emit(Kind::kOperator, op);
      Advance(op.size());
      return absl::OkStatus();
    }
    return Error(line_, absl::StrCat("unexpected \"", absl::CHexEscape(Rest().substr(0, 1)), "\""));
  }

  const absl::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // `at_` is at the beginning of a line
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  // As Jinja does before all else: one kind of newline, and not one at the very end.
  std::string text = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (absl::EndsWith(text, "\n")) text.pop_back();
  return Lexer(text).Run();
}

std::string AtLine(int line, absl::string_view message) { return absl::StrCat("line ", line, ": ", message); }

}  // namespace spillway::text::jinja
