#include "engine/text/jinja/expression_parser.h"

#include <algorithm>
#include <cmath>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace spillway::text::jinja {
namespace {

using ExpressionKind = Expression::Kind;
using TokenKind = Token::Kind;

// A vector of move-only pointers cannot be made from an initializer list.
template <typename... T>
std::vector<ExpressionPtr> Operands(T... operands) {
  std::vector<ExpressionPtr> result;
  (result.push_back(std::move(operands)), ...);
  return result;
}

}  // namespace

ExpressionPtr ExpressionParser::Make(ExpressionKind kind, int line,
                                     std::vector<ExpressionPtr> operands) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  for (const ExpressionPtr& operand : operands) {
    if (operand) expression->height = std::max(expression->height, operand->height + 1);
  }
  expression->operands = std::move(operands);
  return expression;
}

ExpressionParser::Result ExpressionParser::Checked(ExpressionPtr expression) const {
  for (const auto& [name, value] : expression->named) {
    expression->height = std::max(expression->height, value->height + 1);
  }
  if (expression->height <= kMaxHeight) return expression;
  return absl::ResourceExhaustedError(
      AtLine(expression->line, absl::StrCat("an expression is more than ", kMaxHeight, " operations deep")));
}

ExpressionParser::Result ExpressionParser::Parse() {
  const auto leave = absl::MakeCleanup([this] { --nesting_; });
  if (++nesting_ > kMaxNesting) {
    return absl::ResourceExhaustedError(
        AtLine(tokens_.line(), absl::StrCat("expressions are nested more than ", kMaxNesting, " deep")));
  }
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
  while (tokens_.IsName("if")) {
    const int line = tokens_.Take().line;
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr condition, ParseOr());
    ExpressionPtr otherwise;
    if (tokens_.SkipName("else")) {
      SPILLWAY_ASSIGN_OR_RETURN(otherwise, Parse());
    }
    SPILLWAY_ASSIGN_OR_RETURN(
        value, Checked(Make(ExpressionKind::kConditional, line,
                            Operands(std::move(condition), std::move(value), std::move(otherwise)))));
  }
  return value;
}

ExpressionParser::Result ExpressionParser::ParseTuple(bool conditional) {
  const int line = tokens_.line();
  const auto parse = [&] { return conditional ? Parse() : ParseOr(); };
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr first, parse());
  if (!tokens_.IsOperator(",")) return first;
  auto items = Operands(std::move(first));
  while (tokens_.SkipOperator(",")) {
    if (tokens_.Is(TokenKind::kBlockEnd) || tokens_.Is(TokenKind::kPrintEnd) || tokens_.IsOperator(")"))
      break;
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr item, parse());
    items.push_back(std::move(item));
  }
  return Checked(Make(ExpressionKind::kTuple, line, std::move(items)));
}

ExpressionParser::Result ExpressionParser::ParseOr() {
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
  while (tokens_.IsName("or")) {
    const int line = tokens_.Take().line;
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
    SPILLWAY_ASSIGN_OR_RETURN(
        left, Checked(Make(ExpressionKind::kOr, line, Operands(std::move(left), std::move(right)))));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseAnd() {
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
  while (tokens_.IsName("and")) {
    const int line = tokens_.Take().line;
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
    SPILLWAY_ASSIGN_OR_RETURN(
        left, Checked(Make(ExpressionKind::kAnd, line, Operands(std::move(left), std::move(right)))));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseNot() {
  const int line = tokens_.line();
  int negations = 0;
  while (tokens_.SkipName("not")) ++negations;
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseComparison());
  for (; negations > 0; --negations) {
    SPILLWAY_ASSIGN_OR_RETURN(value, Checked(Make(ExpressionKind::kNot, line, Operands(std::move(value)))));
  }
  return value;
}

ExpressionParser::Result ExpressionParser::ParseComparison() {
  static constexpr std::pair<absl::string_view, Operator> kOperators[] = {
      {"==", Operator::kEqual},     {"!=", Operator::kNotEqual}, {"<", Operator::kLess},
      {"<=", Operator::kLessEqual}, {">", Operator::kGreater},   {">=", Operator::kGreaterEqual}};
  const int line = tokens_.line();
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr first, ParseSum());
  auto operands = Operands(std::move(first));
  std::vector<Operator> operators;
  while (true) {
    if (tokens_.SkipName("in")) {
      operators.push_back(Operator::kIn);
    } else if (tokens_.IsName("not") && TokenStream::IsToken(tokens_.ahead(), TokenKind::kName, "in")) {
      tokens_.Take();
      tokens_.Take();
      operators.push_back(Operator::kNotIn);
    } else {
      const auto* op = std::find_if(std::begin(kOperators), std::end(kOperators),
                                    [this](const auto& o) { return tokens_.IsOperator(o.first); });
      if (op == std::end(kOperators)) break;
      tokens_.Take();
      operators.push_back(op->second);
    }
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseSum());
    operands.push_back(std::move(operand));
  }
  if (operators.empty()) return std::move(operands[0]);
  ExpressionPtr comparison = Make(ExpressionKind::kCompare, line, std::move(operands));
  comparison->operators = std::move(operators);
  return Checked(std::move(comparison));
}

ExpressionParser::Result ExpressionParser::ParseChain(
    std::initializer_list<std::pair<absl::string_view, Operator>> operators,
    Result (ExpressionParser::*parse)()) {
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr left, (this->*parse)());
  while (true) {
    const auto* op = std::find_if(operators.begin(), operators.end(),
                                  [this](const auto& o) { return tokens_.IsOperator(o.first); });
    if (op == operators.end()) return left;
    const int line = tokens_.Take().line;
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr right, (this->*parse)());
    left = Make(ExpressionKind::kArithmetic, line, Operands(std::move(left), std::move(right)));
    left->operators = {op->second};
    SPILLWAY_ASSIGN_OR_RETURN(left, Checked(std::move(left)));
  }
}

ExpressionParser::Result ExpressionParser::ParseSum() {
  return ParseChain({{"+", Operator::kAdd}, {"-", Operator::kSubtract}},
                    &ExpressionParser::ParseConcatenation);
}

ExpressionParser::Result ExpressionParser::ParseConcatenation() {
  const int line = tokens_.line();
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr first, ParseProduct());
  if (!tokens_.IsOperator("~")) return first;
  auto operands = Operands(std::move(first));
  while (tokens_.SkipOperator("~")) {
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseProduct());
    operands.push_back(std::move(operand));
  }
  return Checked(Make(ExpressionKind::kConcatenate, line, std::move(operands)));
}

ExpressionParser::Result ExpressionParser::ParseProduct() {
  return ParseChain({{"*", Operator::kMultiply},
                     {"/", Operator::kDivide},
                     {"//", Operator::kFloorDivide},
                     {"%", Operator::kModulo}},
                    &ExpressionParser::ParsePower);
}

ExpressionParser::Result ExpressionParser::ParsePower() {
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr left, ParseUnary(true));
  while (tokens_.IsOperator("**")) {
    const int line = tokens_.Take().line;
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr right, ParseUnary(true));
    left = Make(ExpressionKind::kArithmetic, line, Operands(std::move(left), std::move(right)));
    left->operators = {Operator::kPower};
    SPILLWAY_ASSIGN_OR_RETURN(left, Checked(std::move(left)));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseUnary(bool with_filters) {
  const auto leave = absl::MakeCleanup([this] { --nesting_; });
  if (++nesting_ > kMaxNesting) {
    return absl::ResourceExhaustedError(
        AtLine(tokens_.line(), absl::StrCat("expressions are nested more than ", kMaxNesting, " deep")));
  }
  ExpressionPtr value;
  const int line = tokens_.line();
  if (tokens_.SkipOperator("-")) {
    SPILLWAY_ASSIGN_OR_RETURN(value, ParseUnary(false));
    SPILLWAY_ASSIGN_OR_RETURN(value,
                              Checked(Make(ExpressionKind::kNegate, line, Operands(std::move(value)))));
  } else if (tokens_.SkipOperator("+")) {
    SPILLWAY_ASSIGN_OR_RETURN(value, ParseUnary(false));
  } else {
    SPILLWAY_ASSIGN_OR_RETURN(value, ParsePrimary());
    SPILLWAY_ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
  }
  if (!with_filters) return value;
  return ParseFiltersAndTests(std::move(value));
}

ExpressionParser::Result ExpressionParser::ParsePrimary() {
  const int line = tokens_.line();
  if (tokens_.Is(TokenKind::kName)) return ParseNameOrConstant();
  if (tokens_.Is(TokenKind::kString)) {
    std::string text;
    while (tokens_.Is(TokenKind::kString)) text += tokens_.Take().text;
    ExpressionPtr literal = Make(ExpressionKind::kLiteral, line);
    literal->literal = Value::Literal(text);
    return literal;
  }
  if (tokens_.Is(TokenKind::kInteger)) {
    const Token token = tokens_.Take();
    int64_t number = 0;
    if (!absl::SimpleAtoi(token.text, &number)) {
      return absl::InvalidArgumentError(AtLine(line, absl::StrCat("number ", token.text, " is too large")));
    }
    ExpressionPtr literal = Make(ExpressionKind::kLiteral, line);
    literal->literal = Value(number);
    return literal;
  }
  if (tokens_.Is(TokenKind::kFloat)) {
    double number = 0;
    if (!absl::SimpleAtod(tokens_.Take().text, &number) || !std::isfinite(number)) {
      return absl::InvalidArgumentError(AtLine(line, "number is too large"));
    }
    ExpressionPtr literal = Make(ExpressionKind::kLiteral, line);
    literal->literal = Value(number);
    return literal;
  }
  if (tokens_.SkipOperator("(")) return ParseParenthesised();
  if (tokens_.SkipOperator("[")) return ParseList();
  if (tokens_.SkipOperator("{")) return ParseDict();
  return tokens_.Unexpected("an expression");
}

ExpressionParser::Result ExpressionParser::ParseNameOrConstant() {
  const Token token = tokens_.Take();
  ExpressionPtr literal = Make(ExpressionKind::kLiteral, token.line);
  if (token.text == "true" || token.text == "True") {
    literal->literal = Value(true);
    return literal;
  }
  if (token.text == "false" || token.text == "False") {
    literal->literal = Value(false);
    return literal;
  }
  if (token.text == "none" || token.text == "None") {
    literal->literal = None{};
    return literal;
  }
  for (const absl::string_view keyword : {"and", "or", "not", "if", "else", "in", "is", "elif", "for"}) {
    if (token.text == keyword) {
      return absl::InvalidArgumentError(
          AtLine(token.line, absl::StrCat("expected an expression, found \"", keyword, "\"")));
    }
  }
  if (token.text == "loop") return ParseLoop(token.line);
  if (token.text == "caller" || token.text == "varargs" || token.text == "kwargs" || token.text == "self" ||
      token.text == "super") {
    return TokenStream::Unsupported(token.line, absl::StrCat("variable '", token.text, "'"));
  }
  ExpressionPtr name = Make(ExpressionKind::kName, token.line);
  name->name = token.text;
  return name;
}

ExpressionParser::Result ExpressionParser::ParseLoop(int line) {
  static constexpr std::pair<absl::string_view, LoopAttribute> kAttributes[] = {
      {"index", LoopAttribute::kIndex},       {"index0", LoopAttribute::kIndex0},
      {"revindex", LoopAttribute::kRevIndex}, {"revindex0", LoopAttribute::kRevIndex0},
      {"first", LoopAttribute::kFirst},       {"last", LoopAttribute::kLast},
      {"length", LoopAttribute::kLength},     {"previtem", LoopAttribute::kPrevItem},
      {"nextitem", LoopAttribute::kNextItem}, {"depth", LoopAttribute::kDepth},
      {"depth0", LoopAttribute::kDepth0}};
  if (loop_depth_ == 0) return absl::InvalidArgumentError(AtLine(line, "'loop' outside of a for block"));
  if (!tokens_.SkipOperator(".")) return TokenStream::Unsupported(line, "'loop' as a value or function");
  SPILLWAY_ASSIGN_OR_RETURN(const std::string attribute, tokens_.TakeName("an attribute of 'loop'"));
  if (attribute == "cycle" && tokens_.IsOperator("(")) {
    SPILLWAY_ASSIGN_OR_RETURN(CallArguments arguments, ParseArguments());
    if (arguments.positional.empty() || !arguments.named.empty()) {
      return absl::InvalidArgumentError(AtLine(line, "loop.cycle takes one or more arguments by position"));
    }
    return Checked(Make(ExpressionKind::kLoopCycle, line, std::move(arguments.positional)));
  }
  for (const auto& [name, value] : kAttributes) {
    if (attribute != name) continue;
    ExpressionPtr loop = Make(ExpressionKind::kLoop, line);
    loop->loop_attribute = value;
    return loop;
  }
  return TokenStream::Unsupported(line, absl::StrCat("'loop.", attribute, "'"));
}

ExpressionParser::Result ExpressionParser::ParseParenthesised() {
  const int line = tokens_.line();
  if (tokens_.SkipOperator(")")) return Make(ExpressionKind::kTuple, line);
  SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr value, ParseTuple(/*conditional=*/true));
  SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
  return value;
}

ExpressionParser::Result ExpressionParser::ParseList() {
  const int line = tokens_.line();
  std::vector<ExpressionPtr> items;
  while (!tokens_.SkipOperator("]")) {
    if (!items.empty()) {
      SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.SkipOperator("]")) break;
    }
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr item, Parse());
    items.push_back(std::move(item));
  }
  return Checked(Make(ExpressionKind::kList, line, std::move(items)));
}

ExpressionParser::Result ExpressionParser::ParseDict() {
  const int line = tokens_.line();
  std::vector<ExpressionPtr> items;
  while (!tokens_.SkipOperator("}")) {
    if (!items.empty()) {
      SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.SkipOperator("}")) break;
    }
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr key, Parse());
    SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
    SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
    items.push_back(std::move(key));
    items.push_back(std::move(value));
  }
  return Checked(Make(ExpressionKind::kDict, line, std::move(items)));
}

}  // namespace spillway::text::jinja
