// The part of ExpressionParser that reads what follows an operand: attributes, subscripts, calls, filters and
// tests.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/jinja/expression_parser.h"

namespace spillway::text::jinja {
namespace {

using ExpressionKind = Expression::Kind;
using TokenKind = Token::Kind;

std::vector<ExpressionPtr> Single(ExpressionPtr operand) {
  std::vector<ExpressionPtr> operands;
  operands.push_back(std::move(operand));
  return operands;
}

absl::Status UnknownFilter(int line, absl::string_view name) {
  return absl::UnimplementedError(
      AtLine(line, absl::StrCat("filter '", name, "' is not supported; supported are ", FilterNames())));
}

absl::Status UnknownTest(int line, absl::string_view name) {
  return absl::UnimplementedError(
      AtLine(line, absl::StrCat("test '", name, "' is not supported; supported are ", TestNames())));
}

// map("upper") and select("defined") name what they apply to each item.
absl::Status CheckAppliedName(const Builtin& builtin, int line, const std::vector<ExpressionPtr>& operands) {
  const auto literal_at = [&operands](int position) -> const TaintedText* {
    const size_t i = static_cast<size_t>(1 + position);
    const bool present = position >= 0 && i < operands.size() && operands[i] != nullptr;
    return present && operands[i]->kind == ExpressionKind::kLiteral ? operands[i]->literal.AsText() : nullptr;
  };
  if (const TaintedText* name = literal_at(builtin.filter_at); name && !FindFilter(name->bytes())) {
    return UnknownFilter(line, name->bytes());
  }
  if (const TaintedText* name = literal_at(builtin.test_at); name && !FindTest(name->bytes())) {
    return UnknownTest(line, name->bytes());
  }
  return absl::OkStatus();
}

}  // namespace

ExpressionParser::Result ExpressionParser::ParsePostfix(ExpressionPtr operand) {
  while (true) {
    const int line = tokens_.line();
    if (tokens_.SkipOperator(".")) {
      if (tokens_.Is(TokenKind::kInteger)) {
        SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr index, ParsePrimary());
        auto operands = Single(std::move(operand));
        operands.push_back(std::move(index));
        operand = Make(ExpressionKind::kItem, line, std::move(operands));
      } else {
        SPILLWAY_ASSIGN_OR_RETURN(std::string name, tokens_.TakeName("a name behind \".\""));
        if (tokens_.IsOperator("(")) {
          const Builtin* method = FindMethod(name);
          if (method == nullptr) return TokenStream::Unsupported(line, absl::StrCat("method '", name, "'"));
          SPILLWAY_ASSIGN_OR_RETURN(CallArguments arguments, ParseArguments());
          SPILLWAY_ASSIGN_OR_RETURN(operand,
                                    Apply(*method, "method", line, std::move(operand), std::move(arguments)));
          continue;
        }
        operand = Make(ExpressionKind::kAttribute, line, Single(std::move(operand)));
        operand->name = std::move(name);
      }
    } else if (tokens_.SkipOperator("[")) {
      SPILLWAY_ASSIGN_OR_RETURN(operand, ParseSubscript(std::move(operand)));
    } else if (tokens_.IsOperator("(")) {
      if (operand->kind != ExpressionKind::kName) {
        return TokenStream::Unsupported(line, "calling what is not a name");
      }
      SPILLWAY_ASSIGN_OR_RETURN(CallArguments arguments, ParseArguments());
      ExpressionPtr call = Make(ExpressionKind::kCall, line, std::move(arguments.positional));
      call->name = std::move(operand->name);
      call->named = std::move(arguments.named);
      called_names_.push_back({call->name, line});
      operand = std::move(call);
    } else {
      return operand;
    }
    SPILLWAY_ASSIGN_OR_RETURN(operand, Checked(std::move(operand)));
  }
}

ExpressionParser::Result ExpressionParser::ParseSubscript(ExpressionPtr operand) {
  const int line = tokens_.line();
  std::vector<ExpressionPtr> operands = Single(std::move(operand));
  // Parts between colons, which may be empty: [index], [start:stop], [start:stop:step].
  int colons = 0;
  while (true) {
    ExpressionPtr part;
    if (!tokens_.IsOperator(":") && !tokens_.IsOperator("]")) {
      SPILLWAY_ASSIGN_OR_RETURN(part, Parse());
    }
    operands.push_back(std::move(part));
    if (tokens_.SkipOperator("]")) break;
    if (colons == 2 || !tokens_.SkipOperator(":")) return tokens_.Unexpected("\"]\"");
    ++colons;
  }
  if (colons == 0) {
    if (operands[1] == nullptr) return tokens_.SyntaxError("a subscript is empty");
    return Make(ExpressionKind::kItem, line, std::move(operands));
  }
  operands.resize(4);
  return Make(ExpressionKind::kSlice, line, std::move(operands));
}

absl::StatusOr<ExpressionParser::CallArguments> ExpressionParser::ParseArguments() {
  SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
  CallArguments arguments;
  bool first = true;
  while (!tokens_.SkipOperator(")")) {
    if (!first) {
      SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.SkipOperator(")")) break;
    }
    first = false;
    if (tokens_.IsOperator("*") || tokens_.IsOperator("**")) {
      return TokenStream::Unsupported(tokens_.line(), "unpacking with \"*\" in a call");
    }
    if (tokens_.Is(TokenKind::kName) && TokenStream::IsToken(tokens_.ahead(), TokenKind::kOperator, "=")) {
      std::string name = tokens_.Take().text;
      tokens_.Take();
      for (const auto& given : arguments.named) {
        if (given.first == name)
          return tokens_.SyntaxError(absl::StrCat("argument '", name, "' is given twice"));
      }
      SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
      arguments.named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!arguments.named.empty()) return tokens_.SyntaxError("an argument by position follows one by name");
      SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
      arguments.positional.push_back(std::move(value));
    }
  }
  return arguments;
}

ExpressionParser::Result ExpressionParser::ParseFiltersAndTests(ExpressionPtr operand) {
  while (true) {
    if (tokens_.SkipOperator("|")) {
      SPILLWAY_ASSIGN_OR_RETURN(operand, ParseFilter(std::move(operand)));
    } else if (tokens_.SkipName("is")) {
      SPILLWAY_ASSIGN_OR_RETURN(operand, ParseTest(std::move(operand)));
    } else {
      return operand;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseFilter(ExpressionPtr operand) {
  const int line = tokens_.line();
  SPILLWAY_ASSIGN_OR_RETURN(const std::string name, tokens_.TakeName("a filter's name"));
  const Builtin* filter = FindFilter(name);
  if (filter == nullptr) return UnknownFilter(line, name);
  CallArguments arguments;
  if (tokens_.IsOperator("(")) {
    SPILLWAY_ASSIGN_OR_RETURN(arguments, ParseArguments());
  }
  return Apply(*filter, "filter", line, std::move(operand), std::move(arguments));
}

ExpressionParser::Result ExpressionParser::ParseTest(ExpressionPtr operand) {
  const int line = tokens_.line();
  const bool negated = tokens_.SkipName("not");
  SPILLWAY_ASSIGN_OR_RETURN(const std::string name, tokens_.TakeName("a test's name"));
  const Builtin* test = FindTest(name);
  if (test == nullptr) return UnknownTest(line, name);
  CallArguments arguments;
  const bool takes_argument = !test->parameters.empty();
  if (tokens_.IsOperator("(")) {
    SPILLWAY_ASSIGN_OR_RETURN(arguments, ParseArguments());
  } else if (takes_argument) {
    // "x is divisibleby 3"
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    SPILLWAY_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    arguments.positional.push_back(std::move(argument));
  }
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr result,
                            Apply(*test, "test", line, std::move(operand), std::move(arguments)));
  if (!negated) return result;
  return Checked(Make(ExpressionKind::kNot, line, Single(std::move(result))));
}

ExpressionParser::Result ExpressionParser::Apply(const Builtin& builtin, absl::string_view kind, int line,
                                                 ExpressionPtr operand, CallArguments arguments) {
  const auto error = [&](const std::string& message) {
    return absl::InvalidArgumentError(AtLine(line, absl::StrCat(kind, " '", builtin.name, "' ", message)));
  };
  const size_t parameters = builtin.parameters.size();
  if (arguments.positional.size() > parameters && !builtin.takes_more) {
    return error(absl::StrCat("takes at most ", parameters, " arguments"));
  }
  std::vector<ExpressionPtr> operands = Single(std::move(operand));
  for (ExpressionPtr& argument : arguments.positional) operands.push_back(std::move(argument));
  if (operands.size() < 1 + parameters) operands.resize(1 + parameters);
  std::vector<std::pair<std::string, ExpressionPtr>> unmatched;
  for (auto& [name, value] : arguments.named) {
    const auto parameter = std::find(builtin.parameters.begin(), builtin.parameters.end(), name);
    if (parameter == builtin.parameters.end()) {
      if (std::find(builtin.keywords.begin(), builtin.keywords.end(), name) == builtin.keywords.end()) {
        return TokenStream::Unsupported(
            line, absl::StrCat("argument '", name, "' of ", kind, " '", builtin.name, "'"));
      }
      unmatched.emplace_back(std::move(name), std::move(value));
      continue;
    }
    ExpressionPtr& place = operands[1 + (parameter - builtin.parameters.begin())];
    if (place != nullptr) return error(absl::StrCat("has its argument '", name, "' twice"));
    place = std::move(value);
  }
  for (int i = 0; i < builtin.required; ++i) {
    if (operands[1 + i] == nullptr)
      return error(absl::StrCat("needs its argument '", builtin.parameters[i], "'"));
  }
  SPILLWAY_RETURN_IF_ERROR(CheckAppliedName(builtin, line, operands));
  ExpressionPtr application = Make(ExpressionKind::kBuiltin, line, std::move(operands));
  application->name = std::string(builtin.name);
  application->builtin = &builtin;
  application->named = std::move(unmatched);
  return Checked(std::move(application));
}

}  // namespace spillway::text::jinja
