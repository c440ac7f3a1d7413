// The parser's place in the tokens, and the errors that name it. Thread-compatible.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/lexer.h"

namespace spillway::text::jinja {

class TokenStream {
 public:
  // REQUIRES: the last token is kEnd.
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + (current().kind == Token::Kind::kEnd ? 0 : 1)]; }
  int line() const { return current().line; }

  bool Is(Token::Kind kind) const { return current().kind == kind; }
  bool IsName(absl::string_view name) const { return IsToken(current(), Token::Kind::kName, name); }
  bool IsOperator(absl::string_view op) const { return IsToken(current(), Token::Kind::kOperator, op); }
  static bool IsToken(const Token& token, Token::Kind kind, absl::string_view text) {
    return token.kind == kind && token.text == text;
  }

  Token Take() {
    Token token = current();
    if (token.kind != Token::Kind::kEnd) ++at_;
    return token;
  }
  bool SkipName(absl::string_view name) { return IsName(name) && Skip(); }
  bool SkipOperator(absl::string_view op) { return IsOperator(op) && Skip(); }

  absl::Status Expect(Token::Kind kind, absl::string_view what);
  absl::Status ExpectOperator(absl::string_view op);
  absl::Status ExpectName(absl::string_view name);
  absl::StatusOr<std::string> TakeName(absl::string_view what);

  absl::Status SyntaxError(absl::string_view message) const;  // at the current line
  absl::Status Unexpected(absl::string_view expected) const;
  static absl::Status Unsupported(int line, absl::string_view what);

 private:
  bool Skip() {
    ++at_;
    return true;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
