#include "engine/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/jinja/expression_parser.h"
#include "engine/text/jinja/lexer.h"
#include "engine/text/jinja/token_stream.h"

namespace spillway::text::jinja {
namespace {

using TokenKind = Token::Kind;
using StatementKind = Statement::Kind;

constexpr size_t kMaxSourceBytes = 1 << 20;
constexpr int kMaxBlockNesting = 64;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), expressions_(tokens_) {}

  absl::StatusOr<Program> Run() {
    Program program;
    SPILLWAY_ASSIGN_OR_RETURN(program.body, ParseBlock({}));
    for (const auto& called : expressions_.called_names()) {
      if (FindFunction(called.name) == nullptr && assigned_names_.count(called.name) == 0) {
        return TokenStream::Unsupported(called.line, absl::StrCat("function '", called.name, "'"));
      }
    }
    return program;
  }

 private:
  // Up to `{% end`, where `end` is one of `ends`, which is left to be read; without `ends` up to the end.
  absl::StatusOr<Block> ParseBlock(std::initializer_list<absl::string_view> ends) {
    const auto leave = absl::MakeCleanup([this] { --nesting_; });
    if (++nesting_ > kMaxBlockNesting) {
      return absl::ResourceExhaustedError(
          AtLine(tokens_.line(), absl::StrCat("blocks are nested more than ", kMaxBlockNesting, " deep")));
    }
    Block block;
    const int first_line = tokens_.line();
    while (!tokens_.Is(TokenKind::kEnd)) {
      const int line = tokens_.line();
      if (tokens_.Is(TokenKind::kText)) {
        block.push_back(Make(StatementKind::kText, line));
        block.back().text = tokens_.Take().text;
      } else if (tokens_.Is(TokenKind::kPrintBegin)) {
        tokens_.Take();
        block.push_back(Make(StatementKind::kPrint, line));
        SPILLWAY_ASSIGN_OR_RETURN(block.back().expression, expressions_.ParseTuple(/*conditional=*/true));
        SPILLWAY_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kPrintEnd, "\"}}\""));
      } else {
        SPILLWAY_RETURN_IF_ERROR(tokens_.Expect(TokenKind::kBlockBegin, "\"{%\""));
        if (std::any_of(ends.begin(), ends.end(),
                        [this](absl::string_view end) { return tokens_.IsName(end); })) {
          return block;
        }
        SPILLWAY_ASSIGN_OR_RETURN(Statement statement, ParseStatement());
        block.push_back(std::move(statement));
      }
    }
    if (ends.size() == 0) return block;
    return absl::InvalidArgumentError(
        AtLine(first_line, absl::StrCat("the template ends where \"", *(ends.end() - 1), "\" was expected")));
  }

  // A block and the `{% end %}` that closes it.
  absl::StatusOr<Block> ParseClosedBlock(absl::string_view end) {
    SPILLWAY_RETURN_IF_ERROR(EndTag());
    SPILLWAY_ASSIGN_OR_RETURN(Block block, ParseBlock({end}));
    SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectName(end));
    SPILLWAY_RETURN_IF_ERROR(EndTag());
    return block;
  }

  static Statement Make(StatementKind kind, int line) {
    Statement statement;
    statement.kind = kind;
    statement.line = line;
    return statement;
  }

  absl::Status EndTag() { return tokens_.Expect(TokenKind::kBlockEnd, "\"%}\""); }

  absl::StatusOr<Statement> ParseStatement() {
    const int line = tokens_.line();
    SPILLWAY_ASSIGN_OR_RETURN(const std::string name, tokens_.TakeName("a statement's name"));
    if (name == "if") return ParseIf(line);
    if (name == "for") return ParseFor(line);
    if (name == "set") return ParseSet(line);
    if (name == "with") return ParseWith(line);
    if (name == "macro") return ParseMacro(line);
    if (name == "break" || name == "continue") {
      if (expressions_.loop_depth() == 0) {
        return absl::InvalidArgumentError(AtLine(line, absl::StrCat("'", name, "' outside of a for block")));
      }
      SPILLWAY_RETURN_IF_ERROR(EndTag());
      return Make(name == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
    }
    if (name == "generation") {  // marks what the assistant wrote, for training
      Statement statement = Make(StatementKind::kScope, line);
      SPILLWAY_ASSIGN_OR_RETURN(statement.body, ParseClosedBlock("endgeneration"));
      return statement;
    }
    if (name == "else" || name == "elif" || name.rfind("end", 0) == 0) {
      return absl::InvalidArgumentError(AtLine(line, absl::StrCat("\"", name, "\" closes nothing")));
    }
    return TokenStream::Unsupported(line, absl::StrCat("statement '", name, "'"));
  }

  absl::StatusOr<Statement> ParseIf(int line) {
    Statement statement = Make(StatementKind::kIf, line);
    bool otherwise = false;
    while (true) {
      ExpressionPtr condition;
      if (!otherwise) {
        SPILLWAY_ASSIGN_OR_RETURN(condition, expressions_.ParseTuple(/*conditional=*/false));
      }
      SPILLWAY_RETURN_IF_ERROR(EndTag());
      absl::StatusOr<Block> body = otherwise ? ParseBlock({"endif"}) : ParseBlock({"elif", "else", "endif"});
      SPILLWAY_RETURN_IF_ERROR(std::move(body).status());
      statement.branches.emplace_back(std::move(condition), *std::move(body));
      if (tokens_.SkipName("endif")) break;
      otherwise = tokens_.Take().text == "else";
    }
    SPILLWAY_RETURN_IF_ERROR(EndTag());
    return statement;
  }

  // One name, several in a tuple, or (for `set`) namespace.attribute.
  absl::StatusOr<Target> ParseTarget(bool attribute) {
    Target target;
    const bool parenthesised = tokens_.SkipOperator("(");
    do {
      const int line = tokens_.line();
      SPILLWAY_ASSIGN_OR_RETURN(std::string name, tokens_.TakeName("a name to assign to"));
      for (const absl::string_view reserved : {"true", "false", "none", "True", "False", "None", "loop",
                                               "and", "or", "not", "if", "else", "in", "is"}) {
        if (name == reserved) {
          return absl::InvalidArgumentError(AtLine(line, absl::StrCat("'", name, "' cannot be assigned to")));
        }
      }
      assigned_names_.insert(name);
      target.names.push_back(std::move(name));
      if (attribute && !target.is_tuple && tokens_.SkipOperator(".")) {
        SPILLWAY_ASSIGN_OR_RETURN(target.attribute, tokens_.TakeName("an attribute to assign to"));
        break;
      }
      if (tokens_.IsOperator(",")) target.is_tuple = true;
    } while (tokens_.SkipOperator(","));
    if (parenthesised) SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
    return target;
  }

  absl::StatusOr<Statement> ParseFor(int line) {
    Statement statement = Make(StatementKind::kFor, line);
    SPILLWAY_ASSIGN_OR_RETURN(statement.target, ParseTarget(/*attribute=*/false));
    SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectName("in"));
    SPILLWAY_ASSIGN_OR_RETURN(statement.expression, expressions_.ParseTuple(/*conditional=*/false));
    if (tokens_.SkipName("if")) {
      SPILLWAY_ASSIGN_OR_RETURN(statement.condition, expressions_.Parse());
    }
    if (tokens_.IsName("recursive")) return TokenStream::Unsupported(line, "'recursive' in a for block");
    SPILLWAY_RETURN_IF_ERROR(EndTag());
    {
      const int depth = expressions_.loop_depth();
      const auto leave = absl::MakeCleanup([&] { expressions_.set_loop_depth(depth); });
      expressions_.set_loop_depth(depth + 1);
      ++scopes_;
      SPILLWAY_ASSIGN_OR_RETURN(statement.body, ParseBlock({"else", "endfor"}));
      --scopes_;
    }
    if (tokens_.SkipName("else")) {
      SPILLWAY_RETURN_IF_ERROR(EndTag());
      SPILLWAY_ASSIGN_OR_RETURN(statement.otherwise, ParseBlock({"endfor"}));
    }
    SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectName("endfor"));
    SPILLWAY_RETURN_IF_ERROR(EndTag());
    return statement;
  }

  absl::StatusOr<Statement> ParseSet(int line) {
    SPILLWAY_ASSIGN_OR_RETURN(Target target, ParseTarget(/*attribute=*/true));
    Statement statement =
        Make(tokens_.IsOperator("=") ? StatementKind::kSet : StatementKind::kSetBlock, line);
    statement.target = std::move(target);
    if (tokens_.SkipOperator("=")) {
      SPILLWAY_ASSIGN_OR_RETURN(statement.expression, expressions_.ParseTuple(/*conditional=*/true));
      SPILLWAY_RETURN_IF_ERROR(EndTag());
      return statement;
    }
    if (tokens_.IsOperator("|")) return TokenStream::Unsupported(line, "a filter on a set block");
    if (statement.target.is_tuple) return tokens_.Unexpected("\"=\"");
    ++scopes_;
    SPILLWAY_ASSIGN_OR_RETURN(statement.body, ParseClosedBlock("endset"));
    --scopes_;
    return statement;
  }

  absl::StatusOr<Statement> ParseWith(int line) {
    Statement statement = Make(StatementKind::kWith, line);
    while (!tokens_.Is(TokenKind::kBlockEnd)) {
      if (!statement.assignments.empty()) SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      SPILLWAY_ASSIGN_OR_RETURN(std::string name, tokens_.TakeName("a name to assign to"));
      assigned_names_.insert(name);
      SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator("="));
      SPILLWAY_ASSIGN_OR_RETURN(ExpressionPtr value, expressions_.Parse());
      statement.assignments.emplace_back(std::move(name), std::move(value));
    }
    ++scopes_;
    SPILLWAY_ASSIGN_OR_RETURN(statement.body, ParseClosedBlock("endwith"));
    --scopes_;
    return statement;
  }

  absl::StatusOr<Statement> ParseMacro(int line) {
    // One that sees the variables of a block could outlive it.
    if (scopes_ > 0)
      return TokenStream::Unsupported(line, "a macro inside of a for, with, set or macro block");
    Statement statement = Make(StatementKind::kMacro, line);
    auto macro = std::make_unique<Macro>();
    SPILLWAY_ASSIGN_OR_RETURN(macro->name, tokens_.TakeName("a macro's name"));
    assigned_names_.insert(macro->name);
    SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator("("));
    while (!tokens_.SkipOperator(")")) {
      if (!macro->parameters.empty()) SPILLWAY_RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      SPILLWAY_ASSIGN_OR_RETURN(std::string parameter, tokens_.TakeName("a parameter's name"));
      assigned_names_.insert(parameter);
      macro->parameters.push_back(std::move(parameter));
      macro->defaults.emplace_back();
      if (tokens_.SkipOperator("=")) {
        SPILLWAY_ASSIGN_OR_RETURN(macro->defaults.back(), expressions_.Parse());
      } else if (macro->defaults.size() > 1 && macro->defaults[macro->defaults.size() - 2] != nullptr) {
        return tokens_.SyntaxError("a parameter without a default follows one with a default");
      }
    }
    ++scopes_;
    SPILLWAY_ASSIGN_OR_RETURN(macro->body, ParseClosedBlock("endmacro"));
    --scopes_;
    statement.macro = std::move(macro);
    return statement;
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int nesting_ = 0;
  int scopes_ = 0;  // blocks around this place that have variables of their own
  std::set<std::string, std::less<>> assigned_names_;
};

}  // namespace

absl::StatusOr<Program> Parse(absl::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the template has ", source.size(), " bytes; at most ",
                                                     kMaxSourceBytes, " are supported"));
  }
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace spillway::text::jinja
