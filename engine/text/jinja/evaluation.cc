// The part of Interpreter that computes expressions.
#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/operators.h"

namespace spillway::text::jinja {

absl::StatusOr<Value> Interpreter::Evaluate(const Expression& expression) {
  const auto leave = absl::MakeCleanup([this] { --depth_; });
  ++depth_;
  SPILLWAY_RETURN_IF_ERROR(CheckDepth());
  SPILLWAY_RETURN_IF_ERROR(state_.Charge(1));
  absl::StatusOr<Value> value = EvaluateKind(expression);
  if (!value.ok()) return Locate(std::move(value).status(), expression.line);
  return value;
}

absl::StatusOr<Value> Interpreter::EvaluateKind(const Expression& expression) {
  using Kind = Expression::Kind;
  const auto operand = [&expression](size_t i) -> const Expression& { return *expression.operands[i]; };
  switch (expression.kind) {
    case Kind::kLiteral:
      return expression.literal;
    case Kind::kName: {
      if (const Value* value = Find(expression.name)) return *value;
      if (const Builtin* function = FindFunction(expression.name)) return Value(function);
      return Value(Undefined{expression.name});
    }
    case Kind::kList:
    case Kind::kTuple: {
      SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> items, EvaluateAll(expression.operands));
      return Value::List(std::move(items), expression.kind == Kind::kTuple);
    }
    case Kind::kDict:
      return EvaluateDict(expression);
    case Kind::kAttribute: {
      SPILLWAY_ASSIGN_OR_RETURN(const Value object, Evaluate(operand(0)));
      return GetAttribute(state_, object, expression.name);
    }
    case Kind::kItem: {
      SPILLWAY_ASSIGN_OR_RETURN(const Value object, Evaluate(operand(0)));
      SPILLWAY_ASSIGN_OR_RETURN(const Value index, Evaluate(operand(1)));
      return Item(state_, object, index);
    }
    case Kind::kSlice: {
      SPILLWAY_ASSIGN_OR_RETURN(const std::vector<Value> parts, EvaluateAll(expression.operands));
      return Slice(state_, parts[0], parts[1], parts[2], parts[3]);
    }
    case Kind::kLoop:
      return EvaluateLoop(expression);
    case Kind::kLoopCycle: {
      SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> items, EvaluateAll(expression.operands));
      return std::move(items[loops_.back().index % items.size()]);
    }
    case Kind::kCall:
      return EvaluateCall(expression);
    case Kind::kBuiltin:
      return EvaluateBuiltin(expression);
    case Kind::kNot: {
      SPILLWAY_ASSIGN_OR_RETURN(const Value value, Evaluate(operand(0)));
      return Value(!value.Truth());
    }
    case Kind::kNegate: {
      SPILLWAY_ASSIGN_OR_RETURN(const Value value, Evaluate(operand(0)));
      return Negate(value);
    }
    case Kind::kAnd:
    case Kind::kOr: {
      SPILLWAY_ASSIGN_OR_RETURN(Value left, Evaluate(operand(0)));
      if (left.Truth() == (expression.kind == Kind::kOr)) return left;
      return Evaluate(operand(1));
    }
    case Kind::kArithmetic: {
      SPILLWAY_ASSIGN_OR_RETURN(const Value left, Evaluate(operand(0)));
      SPILLWAY_ASSIGN_OR_RETURN(const Value right, Evaluate(operand(1)));
      return Arithmetic(state_, expression.operators[0], left, right);
    }
    case Kind::kConcatenate:
      return EvaluateConcatenate(expression);
    case Kind::kCompare:
      return EvaluateCompare(expression);
    case Kind::kConditional: {
      SPILLWAY_ASSIGN_OR_RETURN(const Value condition, Evaluate(operand(0)));
      if (condition.Truth()) return Evaluate(operand(1));
      return EvaluateOrUndefined(expression.operands[2]);
    }
  }
  SPILLWAY_CHECK_MSG(false, "not a kind of expression");
}

absl::StatusOr<Value> Interpreter::EvaluateOrUndefined(const ExpressionPtr& expression) {
  if (expression == nullptr) return Value();
  return Evaluate(*expression);
}

absl::StatusOr<std::vector<Value>> Interpreter::EvaluateAll(const std::vector<ExpressionPtr>& expressions) {
  SPILLWAY_RETURN_IF_ERROR(state_.ChargeItems(expressions.size()));
  std::vector<Value> values;
  values.reserve(expressions.size());
  for (const ExpressionPtr& expression : expressions) {
    SPILLWAY_ASSIGN_OR_RETURN(Value value, EvaluateOrUndefined(expression));
    values.push_back(std::move(value));
  }
  return values;
}

absl::StatusOr<std::vector<std::pair<std::string, Value>>> Interpreter::EvaluateNamed(
    const Expression& expression) {
  std::vector<std::pair<std::string, Value>> named;
  for (const auto& [name, argument] : expression.named) {
    SPILLWAY_ASSIGN_OR_RETURN(Value value, Evaluate(*argument));
    named.emplace_back(name, std::move(value));
  }
  return named;
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expression& expression) {
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> parts, EvaluateAll(expression.operands));
  const auto n = static_cast<int64_t>(parts.size() / 2);
  SPILLWAY_RETURN_IF_ERROR(state_.Charge(n * n / 2));  // each key is compared with those before it
  std::vector<std::pair<Value, Value>> items;
  for (size_t i = 0; i + 1 < parts.size(); i += 2)
    items.emplace_back(std::move(parts[i]), std::move(parts[i + 1]));
  return Value::MakeDict(std::move(items));
}

absl::StatusOr<Value> Interpreter::EvaluateConcatenate(const Expression& expression) {
  TaintedText text;
  for (const ExpressionPtr& operand : expression.operands) {
    SPILLWAY_ASSIGN_OR_RETURN(const Value value, Evaluate(*operand));
    SPILLWAY_RETURN_IF_ERROR(state_.Charge(value.weight()));
    text.Append(ToText(value));
  }
  return Value(std::move(text));
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expression& expression) {
  SPILLWAY_ASSIGN_OR_RETURN(Value left, Evaluate(*expression.operands[0]));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(Value right, Evaluate(*expression.operands[i + 1]));
    SPILLWAY_ASSIGN_OR_RETURN(const bool holds, CompareBy(state_, expression.operators[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

absl::StatusOr<Value> Interpreter::EvaluateLoop(const Expression& expression) {
  SPILLWAY_CHECK(!loops_.empty());  // the parser lets "loop" stand in for blocks only
  const Loop& loop = loops_.back();
  const auto index = static_cast<int64_t>(loop.index), length = static_cast<int64_t>(loop.items->size());
  switch (expression.loop_attribute) {
    case LoopAttribute::kIndex:
      return Value(index + 1);
    case LoopAttribute::kIndex0:
      return Value(index);
    case LoopAttribute::kRevIndex:
      return Value(length - index);
    case LoopAttribute::kRevIndex0:
      return Value(length - index - 1);
    case LoopAttribute::kFirst:
      return Value(index == 0);
    case LoopAttribute::kLast:
      return Value(index + 1 == length);
    case LoopAttribute::kLength:
      return Value(length);
    case LoopAttribute::kPrevItem:
      return index > 0 ? (*loop.items)[index - 1] : Value(Undefined{"loop.previtem"});
    case LoopAttribute::kNextItem:
      return index + 1 < length ? (*loop.items)[index + 1] : Value(Undefined{"loop.nextitem"});
    case LoopAttribute::kDepth:  // of recursion, which is not supported
      return Value(int64_t{1});
    case LoopAttribute::kDepth0:
      return Value(int64_t{0});
  }
  SPILLWAY_CHECK_MSG(false, "not an attribute of loop");
}

absl::StatusOr<Value> Interpreter::EvaluateBuiltin(const Expression& expression) {
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<Value> arguments, EvaluateAll(expression.operands));
  SPILLWAY_ASSIGN_OR_RETURN(const auto named, EvaluateNamed(expression));
  return expression.builtin->function(state_, arguments, named);
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expression& expression) {
  const Value* callee = Find(expression.name);
  const Macro* macro = callee == nullptr ? nullptr : callee->AsMacro();
  const Builtin* function = callee == nullptr ? FindFunction(expression.name) : callee->AsFunction();
  if (macro == nullptr && function == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("'", expression.name, "' cannot be called"));
  }
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> positional, EvaluateAll(expression.operands));
  SPILLWAY_ASSIGN_OR_RETURN(auto named, EvaluateNamed(expression));
  if (macro != nullptr) return CallMacro(*macro, std::move(positional), std::move(named));
  return CallFunction(*function, std::move(positional), std::move(named));
}

absl::StatusOr<Value> Interpreter::CallMacro(const Macro& macro, std::vector<Value> positional,
                                             std::vector<std::pair<std::string, Value>> named) {
  if (positional.size() > macro.parameters.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("macro '", macro.name, "' takes at most ", macro.parameters.size(), " arguments"));
  }
  // A macro sees the template's own variables, not those of its caller.
  Scope scope{{}, &root_};
  for (size_t i = 0; i < positional.size(); ++i)
    scope.variables[macro.parameters[i]] = std::move(positional[i]);
  for (auto& [name, value] : named) {
    const auto parameter = std::find(macro.parameters.begin(), macro.parameters.end(), name);
    if (parameter == macro.parameters.end() || scope.variables.contains(*parameter)) {
      return absl::InvalidArgumentError(absl::StrCat("macro '", macro.name, "' takes no argument '", name,
                                                     "'",
                                                     parameter == macro.parameters.end() ? "" : " twice"));
    }
    scope.variables[*parameter] = std::move(value);
  }
  {
    const auto restore = absl::MakeCleanup([this, outer = scope_] { scope_ = outer; });
    scope_ = &scope;
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const std::string& parameter = macro.parameters[i];
      if (scope.variables.contains(parameter)) continue;
      Value value(Undefined{parameter});
      if (macro.defaults[i] != nullptr) {
        SPILLWAY_ASSIGN_OR_RETURN(value, Evaluate(*macro.defaults[i]));
      }
      scope.variables[parameter] = std::move(value);
    }
  }
  return Capture(macro.body, scope);
}

absl::StatusOr<Value> Interpreter::CallFunction(const Builtin& function, std::vector<Value> positional,
                                                std::vector<std::pair<std::string, Value>> named) {
  if (positional.size() > function.parameters.size() && !function.takes_more) {
    return absl::InvalidArgumentError(absl::StrCat("function '", function.name, "' takes at most ",
                                                   function.parameters.size(), " arguments"));
  }
  if (static_cast<int>(positional.size()) < function.required) {
    return absl::InvalidArgumentError(absl::StrCat("function '", function.name, "' needs its argument '",
                                                   function.parameters[positional.size()], "'"));
  }
  if (!named.empty() && !function.any_keyword) {
    return absl::InvalidArgumentError(
        absl::StrCat("function '", function.name, "' takes no argument '", named[0].first, "' by name"));
  }
  if (positional.size() < function.parameters.size()) positional.resize(function.parameters.size());
  return function.function(state_, positional, named);
}

}  // namespace spillway::text::jinja
