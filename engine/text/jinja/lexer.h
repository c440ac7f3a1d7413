// Cuts a template's source into text and tokens. Handles what Jinja calls whitespace control, with
// trim_blocks and lstrip_blocks on: a block's own line leaves no trace in the output.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_LEXER_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_LEXER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway::text::jinja {

struct Token {
  enum class Kind {
    kText,        // template text, as it is written out
    kBlockBegin,  // {%
    kBlockEnd,    // %}
    kPrintBegin,  // {{
    kPrintEnd,    // }}
    kName,
    kString,   // `text` holds the value, escapes resolved
    kInteger,  // `text` holds the digits, in base 10
    kFloat,
    kOperator,  // `text` is one of ( ) [ ] { } , : . | ~ + - * / // % ** == != < <= > >= =
    kEnd,
  };
  Kind kind;
  std::string text;
  int line;
};

// InvalidArgument, with the line, for a tag or string that is not closed and for characters that begin
// nothing. The last token is kEnd.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

// "line 3: message"
std::string AtLine(int line, absl::string_view message);

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_LEXER_H_
