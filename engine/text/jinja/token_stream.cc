#include "engine/text/jinja/token_stream.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace spillway::text::jinja {
namespace {

std::string Describe(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kText:
      return "text";
    case Token::Kind::kEnd:
      return "the end of the template";
    case Token::Kind::kString:
      return "a string";
    default:
      return absl::StrCat("\"", absl::CHexEscape(token.text), "\"");
  }
}

}  // namespace

absl::Status TokenStream::Expect(Token::Kind kind, absl::string_view what) {
  if (!Is(kind)) return Unexpected(what);
  ++at_;
  return absl::OkStatus();
}

absl::Status TokenStream::ExpectOperator(absl::string_view op) {
  if (SkipOperator(op)) return absl::OkStatus();
  return Unexpected(absl::StrCat("\"", op, "\""));
}

absl::Status TokenStream::ExpectName(absl::string_view name) {
  if (SkipName(name)) return absl::OkStatus();
  return Unexpected(absl::StrCat("\"", name, "\""));
}

absl::StatusOr<std::string> TokenStream::TakeName(absl::string_view what) {
  if (!Is(Token::Kind::kName)) return Unexpected(what);
  return Take().text;
}

absl::Status TokenStream::SyntaxError(absl::string_view message) const {
  return absl::InvalidArgumentError(AtLine(line(), message));
}

absl::Status TokenStream::Unexpected(absl::string_view expected) const {
  return SyntaxError(absl::StrCat("expected ", expected, ", found ", Describe(current())));
}

absl::Status TokenStream::Unsupported(int line, absl::string_view what) {
  return absl::UnimplementedError(AtLine(line, absl::StrCat(what, " is not supported")));
}

}  // namespace spillway::text::jinja
