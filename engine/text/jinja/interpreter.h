// Runs a Program over its variables. One Interpreter per Render call; thread-compatible.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_INTERPRETER_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_INTERPRETER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/builtins.h"

namespace spillway::text::jinja {

struct Limits {
  int64_t work;       // see RenderState
  size_t text_bytes;  // of what the template writes
};

class Interpreter {
 public:
  using Variables = absl::flat_hash_map<absl::string_view, Value>;

  // `program` and the names of `globals` must outlive the interpreter.
  Interpreter(const Program& program, Variables globals, Limits limits, int64_t unix_seconds);

  // What the template writes. Call once.
  absl::StatusOr<TaintedText> Run();

 private:
  struct Scope {
    Variables variables;
    Scope* parent;
  };
  struct Loop {
    const std::vector<Value>* items;
    size_t index;
  };
  enum class Flow { kNext, kBreak, kContinue };

  // Puts the line into an error that has none yet.
  absl::Status Locate(absl::Status status, int line);
  // ResourceExhausted when statements, expressions and macros are too deep within each other.
  absl::Status CheckDepth() const;

  absl::StatusOr<Flow> Execute(const Block& block);
  absl::StatusOr<Flow> ExecuteStatement(const Statement& statement);
  absl::StatusOr<Flow> ExecuteIf(const Statement& statement);
  absl::StatusOr<Flow> ExecuteFor(const Statement& statement);
  absl::StatusOr<Flow> ExecuteWith(const Statement& statement);
  absl::Status Write(const TaintedText& text);
  absl::Status Assign(const Target& target, Value value, int line);
  // What `block` writes, instead of writing it.
  absl::StatusOr<Value> Capture(const Block& block, Scope& scope);

  absl::StatusOr<Value> Evaluate(const Expression& expression);
  absl::StatusOr<Value> EvaluateKind(const Expression& expression);
  absl::StatusOr<Value> EvaluateOrUndefined(const ExpressionPtr& expression);
  absl::StatusOr<std::vector<Value>> EvaluateAll(const std::vector<ExpressionPtr>& expressions);
  absl::StatusOr<std::vector<std::pair<std::string, Value>>> EvaluateNamed(const Expression& expression);
  absl::StatusOr<Value> EvaluateDict(const Expression& expression);
  absl::StatusOr<Value> EvaluateCompare(const Expression& expression);
  absl::StatusOr<Value> EvaluateLoop(const Expression& expression);
  absl::StatusOr<Value> EvaluateConcatenate(const Expression& expression);
  absl::StatusOr<Value> EvaluateCall(const Expression& expression);
  absl::StatusOr<Value> EvaluateBuiltin(const Expression& expression);
  absl::StatusOr<Value> CallMacro(const Macro& macro, std::vector<Value> positional,
                                  std::vector<std::pair<std::string, Value>> named);
  absl::StatusOr<Value> CallFunction(const Builtin& function, std::vector<Value> positional,
                                     std::vector<std::pair<std::string, Value>> named);
  const Value* Find(absl::string_view name) const;

  const Program& program_;
  const Limits limits_;
  RenderState state_;
  Scope globals_;
  Scope root_;
  Scope* scope_ = &root_;
  std::vector<Loop> loops_;
  TaintedText output_;
  TaintedText* out_ = &output_;
  int depth_ = 0;
  bool located_ = false;
};

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_INTERPRETER_H_
