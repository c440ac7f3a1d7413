// The expressions of Jinja, from "a if b else c" down to literals. Thread-compatible.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/token_stream.h"

namespace spillway::text::jinja {

class ExpressionParser {
 public:
  // Nesting of source and of the tree that comes of it, "a + b + c + ..." included.
  static constexpr int kMaxNesting = 64;
  static constexpr int kMaxHeight = 192;

  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  absl::StatusOr<ExpressionPtr> Parse();  // "a if b else c"
  absl::StatusOr<ExpressionPtr> ParseOr();
  // "a, b" without parentheses is a tuple; `conditional` allows "if" in its items.
  absl::StatusOr<ExpressionPtr> ParseTuple(bool conditional);

  // Within how many `for` blocks of the current macro the parser is.
  void set_loop_depth(int depth) { loop_depth_ = depth; }
  int loop_depth() const { return loop_depth_; }

  struct CalledName {
    std::string name;
    int line;
  };
  // Everything called by its name, for the check that there is something to call.
  const std::vector<CalledName>& called_names() const { return called_names_; }

 private:
  using Result = absl::StatusOr<ExpressionPtr>;
  struct CallArguments {
    std::vector<ExpressionPtr> positional;
    std::vector<std::pair<std::string, ExpressionPtr>> named;
  };

  Result ParseAnd();
  Result ParseNot();
  Result ParseComparison();
  Result ParseSum();
  Result ParseConcatenation();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary(bool with_filters);
  Result ParsePrimary();
  Result ParseNameOrConstant();
  Result ParseParenthesised();
  Result ParseList();
  Result ParseDict();
  Result ParsePostfix(ExpressionPtr operand);
  Result ParseSubscript(ExpressionPtr operand);
  Result ParseFiltersAndTests(ExpressionPtr operand);
  Result ParseFilter(ExpressionPtr operand);
  Result ParseTest(ExpressionPtr operand);
  Result ParseLoop(int line);
  absl::StatusOr<CallArguments> ParseArguments();

  // A filter, test or method applied to `operand`: sorts the arguments into the parameters' order.
  Result Apply(const Builtin& builtin, absl::string_view kind, int line, ExpressionPtr operand,
               CallArguments arguments);
  // A left-associative chain of `operators` over what `parse` reads.
  Result ParseChain(std::initializer_list<std::pair<absl::string_view, Operator>> operators,
                    Result (ExpressionParser::*parse)());

  ExpressionPtr Make(Expression::Kind kind, int line, std::vector<ExpressionPtr> operands = {}) const;
  // Refuses a tree that grew too high.
  Result Checked(ExpressionPtr expression) const;

  TokenStream& tokens_;
  int nesting_ = 0;
  int loop_depth_ = 0;
  std::vector<CalledName> called_names_;
};

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
