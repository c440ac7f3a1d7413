#include "engine/text/jinja/interpreter.h"

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/text/jinja/lexer.h"

namespace spillway::text::jinja {
namespace {

// Statements, expressions and macros within each other while the template runs. Bounds the stack.
constexpr int kMaxDepth = 600;

}  // namespace

Interpreter::Interpreter(const Program& program, Variables globals, Limits limits, int64_t unix_seconds)
    : program_(program),
      limits_(limits),
      state_(limits.work, unix_seconds),
      globals_{std::move(globals), nullptr},
      root_{{}, &globals_} {}

absl::StatusOr<TaintedText> Interpreter::Run() {
  SPILLWAY_RETURN_IF_ERROR(Execute(program_.body).status());
  return std::move(output_);
}

const Value* Interpreter::Find(absl::string_view name) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    const auto it = scope->variables.find(name);
    if (it != scope->variables.end()) return &it->second;
  }
  return nullptr;
}

absl::Status Interpreter::Write(const TaintedText& text) {
  SPILLWAY_RETURN_IF_ERROR(state_.ChargeText(text.size()));
  if (text.size() > limits_.text_bytes - out_->size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the template writes more than ", limits_.text_bytes, " bytes"));
  }
  out_->Append(text);
  return absl::OkStatus();
}

absl::Status Interpreter::Locate(absl::Status status, int line) {
  // The innermost operation names the line; what a template says itself is passed on word for word.
  if (status.ok() || located_ || state_.raised()) return status;
  located_ = true;
  return absl::Status(status.code(), AtLine(line, status.message()));
}

absl::Status Interpreter::CheckDepth() const {
  if (depth_ <= kMaxDepth) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("more than ", kMaxDepth, " operations within each other"));
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Block& block) {
  const auto leave = absl::MakeCleanup([this] { --depth_; });
  ++depth_;
  SPILLWAY_RETURN_IF_ERROR(CheckDepth());
  for (const Statement& statement : block) {
    SPILLWAY_RETURN_IF_ERROR(state_.Charge(1));
    absl::StatusOr<Flow> flow = ExecuteStatement(statement);
    if (!flow.ok() || *flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteStatement(const Statement& statement) {
  using Kind = Statement::Kind;
  switch (statement.kind) {
    case Kind::kText:
      SPILLWAY_RETURN_IF_ERROR(Write(TaintedText(statement.text, Origin::kTemplate)));
      return Flow::kNext;
    case Kind::kPrint: {
      SPILLWAY_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression));
      SPILLWAY_RETURN_IF_ERROR(state_.Charge(value.weight()));
      SPILLWAY_RETURN_IF_ERROR(Write(ToText(value)));
      return Flow::kNext;
    }
    case Kind::kIf:
      return ExecuteIf(statement);
    case Kind::kFor:
      return ExecuteFor(statement);
    case Kind::kSet: {
      SPILLWAY_ASSIGN_OR_RETURN(Value value, Evaluate(*statement.expression));
      SPILLWAY_RETURN_IF_ERROR(Assign(statement.target, std::move(value), statement.line));
      return Flow::kNext;
    }
    case Kind::kSetBlock: {
      Scope scope{{}, scope_};
      SPILLWAY_ASSIGN_OR_RETURN(Value value, Capture(statement.body, scope));
      SPILLWAY_RETURN_IF_ERROR(Assign(statement.target, std::move(value), statement.line));
      return Flow::kNext;
    }
    case Kind::kWith:
      return ExecuteWith(statement);
    case Kind::kMacro:
      scope_->variables[statement.macro->name] = Value(statement.macro.get());
      return Flow::kNext;
    case Kind::kScope:
      return ExecuteWith(statement);
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  SPILLWAY_CHECK_MSG(false, "not a kind of statement");
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteIf(const Statement& statement) {
  for (const auto& [condition, body] : statement.branches) {
    if (condition != nullptr) {
      SPILLWAY_ASSIGN_OR_RETURN(const Value value, Evaluate(*condition));
      if (!value.Truth()) continue;
    }
    return Execute(body);
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteFor(const Statement& statement) {
  SPILLWAY_ASSIGN_OR_RETURN(const Value iterable, Evaluate(*statement.expression));
  absl::StatusOr<std::vector<Value>> all = Items(state_, iterable);
  if (!all.ok()) return Locate(std::move(all).status(), statement.line);
  std::vector<Value> items = *std::move(all);

  Scope* const outer = scope_;
  const auto restore_scope = absl::MakeCleanup([this, outer] { scope_ = outer; });
  if (statement.condition != nullptr) {
    std::vector<Value> chosen;
    for (Value& item : items) {
      Scope scope{{}, outer};
      scope_ = &scope;
      SPILLWAY_RETURN_IF_ERROR(Assign(statement.target, item, statement.line));
      SPILLWAY_ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.condition));
      if (value.Truth()) chosen.push_back(std::move(item));
      scope_ = outer;
    }
    items = std::move(chosen);
  }
  if (items.empty()) return Execute(statement.otherwise);

  loops_.push_back({&items, 0});
  const auto end_loop = absl::MakeCleanup([this] { loops_.pop_back(); });
  for (size_t i = 0; i < items.size(); ++i) {
    SPILLWAY_RETURN_IF_ERROR(state_.Charge(1));
    Scope scope{{}, outer};
    scope_ = &scope;
    loops_.back().index = i;
    SPILLWAY_RETURN_IF_ERROR(Assign(statement.target, items[i], statement.line));
    SPILLWAY_ASSIGN_OR_RETURN(const Flow flow, Execute(statement.body));
    scope_ = outer;
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteWith(const Statement& statement) {
  Scope scope{{}, scope_};
  for (const auto& [name, expression] : statement.assignments) {
    SPILLWAY_ASSIGN_OR_RETURN(scope.variables[name], Evaluate(*expression));
  }
  const auto restore = absl::MakeCleanup([this, outer = scope_] { scope_ = outer; });
  scope_ = &scope;
  return Execute(statement.body);
}

absl::Status Interpreter::Assign(const Target& target, Value value, int line) {
  SPILLWAY_RETURN_IF_ERROR(state_.Charge(8));
  if (!target.attribute.empty()) {
    const Value* object = Find(target.names[0]);
    if (object == nullptr || object->AsNamespace() == nullptr) {
      return Locate(absl::InvalidArgumentError(absl::StrCat(
                        "'", target.names[0], "' is not a namespace: its attributes cannot be set")),
                    line);
    }
    object->AsNamespace()->attributes[target.attribute] = std::move(value);
    return absl::OkStatus();
  }
  if (!target.is_tuple) {
    scope_->variables[target.names[0]] = std::move(value);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<Value>> items = Items(state_, value);
  if (!items.ok() || items->size() != target.names.size()) {
    return Locate(absl::InvalidArgumentError(
                      absl::StrCat(value.AKind(), " does not unpack into ", target.names.size(), " names")),
                  line);
  }
  for (size_t i = 0; i < items->size(); ++i) scope_->variables[target.names[i]] = std::move((*items)[i]);
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Capture(const Block& block, Scope& scope) {
  TaintedText captured;
  const auto restore = absl::MakeCleanup([this, out = out_, outer = scope_] {
    out_ = out;
    scope_ = outer;
  });
  out_ = &captured;
  scope_ = &scope;
  SPILLWAY_RETURN_IF_ERROR(Execute(block).status());
  return Value(std::move(captured));
}

}  // namespace spillway::text::jinja
