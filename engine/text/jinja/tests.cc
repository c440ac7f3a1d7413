// The tests: what may stand behind "is".
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/table.h"

namespace spillway::text::jinja {
namespace {

using Arguments = Builtin::Arguments;
using Named = Builtin::Named;

// A test that only looks at the value.
template <bool (*kPredicate)(const Value&)>
absl::StatusOr<Value> Test(RenderState&, Arguments arguments, Named) {
  return Value(kPredicate(arguments[0]));
}

template <Operator kOperator>
absl::StatusOr<Value> TestBy(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const bool holds, CompareBy(state, kOperator, arguments[0], arguments[1]));
  return Value(holds);
}

absl::StatusOr<bool> IsDivisible(const Value& value, const Value& divisor) {
  if (!value.AsInt() || !divisor.AsInt()) {
    return absl::InvalidArgumentError(absl::StrCat(value.AKind(), " is not an integer to divide"));
  }
  if (*divisor.AsInt() == 0) return absl::InvalidArgumentError("division by zero");
  return *divisor.AsInt() == -1 || *value.AsInt() % *divisor.AsInt() == 0;
}

absl::StatusOr<Value> TestOdd(RenderState&, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const bool even, IsDivisible(arguments[0], Value(int64_t{2})));
  return Value(!even);
}

absl::StatusOr<Value> TestEven(RenderState&, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const bool even, IsDivisible(arguments[0], Value(int64_t{2})));
  return Value(even);
}

absl::StatusOr<Value> TestDivisibleBy(RenderState&, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const bool divisible, IsDivisible(arguments[0], arguments[1]));
  return Value(divisible);
}

bool IsDefined(const Value& value) { return !value.IsUndefined(); }
bool IsUndefined(const Value& value) { return value.IsUndefined(); }
bool IsNone(const Value& value) { return value.IsNone(); }
bool IsBoolean(const Value& value) { return value.AsBool() != nullptr; }
bool IsTrue(const Value& value) { return value.AsBool() != nullptr && *value.AsBool(); }
bool IsFalse(const Value& value) { return value.AsBool() != nullptr && !*value.AsBool(); }
bool IsInteger(const Value& value) { return value.AsInt() != nullptr; }
bool IsFloat(const Value& value) { return value.AsDouble() != nullptr; }
// A boolean is a number in Python.
bool IsNumber(const Value& value) { return value.IsNumber() || value.AsBool() != nullptr; }
bool IsString(const Value& value) { return value.AsText() != nullptr; }
bool IsMapping(const Value& value) { return value.AsDict() != nullptr; }
// An undefined value has no items, but one may ask for them.
bool IsIterable(const Value& value) {
  return value.AsSequence() || value.AsDict() || value.AsText() || value.IsUndefined();
}
bool IsSequence(const Value& value) { return IsIterable(value); }
bool IsCallable(const Value& value) { return value.AsMacro() || value.AsFunction(); }

const std::vector<Builtin>& Tests() {
  static const auto* const table = new std::vector<Builtin>{
      {.name = "defined", .function = Test<IsDefined>},
      {.name = "undefined", .function = Test<IsUndefined>},
      {.name = "none", .function = Test<IsNone>},
      {.name = "boolean", .function = Test<IsBoolean>},
      {.name = "true", .function = Test<IsTrue>},
      {.name = "false", .function = Test<IsFalse>},
      {.name = "integer", .function = Test<IsInteger>},
      {.name = "float", .function = Test<IsFloat>},
      {.name = "number", .function = Test<IsNumber>},
      {.name = "string", .function = Test<IsString>},
      {.name = "mapping", .function = Test<IsMapping>},
      {.name = "iterable", .function = Test<IsIterable>},
      {.name = "sequence", .function = Test<IsSequence>},
      {.name = "callable", .function = Test<IsCallable>},
      {.name = "odd", .function = TestOdd},
      {.name = "even", .function = TestEven},
      {.name = "divisibleby", .function = TestDivisibleBy, .required = 1, .parameters = {"num"}},
      {.name = "equalto", .function = TestBy<Operator::kEqual>, .required = 1, .parameters = {"other"}},
      {.name = "eq", .function = TestBy<Operator::kEqual>, .required = 1, .parameters = {"other"}},
      {.name = "==", .function = TestBy<Operator::kEqual>, .required = 1, .parameters = {"other"}},
      {.name = "ne", .function = TestBy<Operator::kNotEqual>, .required = 1, .parameters = {"other"}},
      {.name = "!=", .function = TestBy<Operator::kNotEqual>, .required = 1, .parameters = {"other"}},
      {.name = "lt", .function = TestBy<Operator::kLess>, .required = 1, .parameters = {"other"}},
      {.name = "lessthan", .function = TestBy<Operator::kLess>, .required = 1, .parameters = {"other"}},
      {.name = "le", .function = TestBy<Operator::kLessEqual>, .required = 1, .parameters = {"other"}},
      {.name = "gt", .function = TestBy<Operator::kGreater>, .required = 1, .parameters = {"other"}},
      {.name = "greaterthan", .function = TestBy<Operator::kGreater>, .required = 1, .parameters = {"other"}},
      {.name = "ge", .function = TestBy<Operator::kGreaterEqual>, .required = 1, .parameters = {"other"}},
      {.name = "in", .function = TestBy<Operator::kIn>, .required = 1, .parameters = {"seq"}},
  };
  return *table;
}

}  // namespace

const Builtin* FindTest(absl::string_view name) { return FindIn(Tests(), name); }
std::string TestNames() { return NamesOf(Tests()); }

}  // namespace spillway::text::jinja
