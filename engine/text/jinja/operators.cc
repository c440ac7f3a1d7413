#include "engine/text/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/text/jinja/python_text.h"

namespace spillway::text::jinja {
namespace {

absl::string_view Sign(Operator op) {
  switch (op) {
    case Operator::kAdd:
      return "+";
    case Operator::kSubtract:
      return "-";
    case Operator::kMultiply:
      return "*";
    case Operator::kDivide:
      return "/";
    case Operator::kFloorDivide:
      return "//";
    case Operator::kModulo:
      return "%";
    case Operator::kPower:
      return "**";
    default:
      return "comparison";
  }
}

std::optional<int64_t> ToInteger(const Value& value) {
  if (const int64_t* integer = value.AsInt()) return *integer;
  if (const bool* boolean = value.AsBool()) return *boolean ? 1 : 0;
  return std::nullopt;
}

bool IsNumeric(const Value& value) { return value.AsDouble() != nullptr || ToInteger(value).has_value(); }

absl::Status UndefinedError(const Undefined& undefined) {
  return absl::InvalidArgumentError(absl::StrCat("'", undefined.name, "' is undefined"));
}

absl::StatusOr<Value> IntegerArithmetic(Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (op) {
    case Operator::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Operator::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Operator::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Operator::kDivide:
      if (b == 0) return absl::InvalidArgumentError("division by zero");
      return Value(static_cast<double>(a) / static_cast<double>(b));
    case Operator::kFloorDivide:
    case Operator::kModulo: {
      if (b == 0) return absl::InvalidArgumentError("division by zero");
      if (b == -1) {  // the one division that can overflow
        if (op == Operator::kModulo) return Value(int64_t{0});
        overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
        break;
      }
      // Python rounds down, so that the remainder has the divisor's sign.
      const int64_t remainder = a % b;
      const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
      result = op == Operator::kModulo ? remainder + (adjust ? b : 0) : a / b - (adjust ? 1 : 0);
      break;
    }
    case Operator::kPower: {
      if (b < 0) {
        if (a == 0) return absl::InvalidArgumentError("division by zero");
        return Value(std::pow(static_cast<double>(a), static_cast<double>(b)));
      }
      result = 1;
      if (a >= -1 && a <= 1) {
        result = b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a;
        break;
      }
      for (int64_t i = 0; i < b && !overflow; ++i) overflow = __builtin_mul_overflow(result, a, &result);
      break;
    }
    default:
      SPILLWAY_CHECK_MSG(false, "not arithmetic");
  }
  if (overflow) return absl::InvalidArgumentError("an integer exceeds 64 bits");
  return Value(result);
}

absl::StatusOr<Value> FloatArithmetic(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd:
      return Value(a + b);
    case Operator::kSubtract:
      return Value(a - b);
    case Operator::kMultiply:
      return Value(a * b);
    case Operator::kPower:
      return Value(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  if (op == Operator::kDivide) return Value(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == Operator::kModulo) return Value(remainder);
  return Value(std::floor((a - remainder) / b + 0.5));
}

absl::StatusOr<Value> Repeat(RenderState& state, const Value& value, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (const TaintedText* text = value.AsText()) {
    if (text->empty()) return value;
    SPILLWAY_RETURN_IF_ERROR(state.Charge(times));
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text->size() * static_cast<size_t>(times)));
    TaintedText result;
    for (int64_t i = 0; i < times; ++i) result.Append(*text);
    return Value(std::move(result));
  }
  const Sequence& sequence = *value.AsSequence();
  const auto n = static_cast<int64_t>(sequence.items.size());
  if (n > 0) {
    SPILLWAY_RETURN_IF_ERROR(state.Charge(times));
    SPILLWAY_RETURN_IF_ERROR(state.ChargeItems(static_cast<size_t>(times) * sequence.items.size()));
  }
  std::vector<Value> items;
  for (int64_t i = 0; n > 0 && i < times; ++i) {
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return Value::List(std::move(items), sequence.is_tuple);
}

// What Python makes of one bound of a slice over `size` items.
int64_t Bound(const Value& value, int64_t size, int64_t missing, int64_t low, int64_t high) {
  if (value.IsUndefined() || value.IsNone()) return missing;
  int64_t bound = *ToInteger(value);
  if (bound < 0) bound = bound < -size ? -1 : bound + size;
  return std::clamp(bound, low, high);
}

}  // namespace

absl::StatusOr<Value> Arithmetic(RenderState& state, Operator op, const Value& left, const Value& right) {
  if (left.AsUndefined()) return UndefinedError(*left.AsUndefined());
  if (right.AsUndefined()) return UndefinedError(*right.AsUndefined());
  if (IsNumeric(left) && IsNumeric(right)) {
    const auto a = ToInteger(left), b = ToInteger(right);
    if (a && b) return IntegerArithmetic(op, *a, *b);
    return FloatArithmetic(op, ToDouble(left), ToDouble(right));
  }
  if (op == Operator::kAdd && left.AsText() && right.AsText()) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(left.AsText()->size() + right.AsText()->size()));
    TaintedText text = *left.AsText();
    text.Append(*right.AsText());
    return Value(std::move(text));
  }
  if (const Sequence* a = left.AsSequence(), *b = right.AsSequence();
      op == Operator::kAdd && a && b && a->is_tuple == b->is_tuple) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeItems(a->items.size() + b->items.size()));
    std::vector<Value> items = a->items;
    items.insert(items.end(), b->items.begin(), b->items.end());
    return Value::List(std::move(items), a->is_tuple);
  }
  if (op == Operator::kMultiply) {
    const auto a = ToInteger(left), b = ToInteger(right);
    if (b && (left.AsText() || left.AsSequence())) return Repeat(state, left, *b);
    if (a && (right.AsText() || right.AsSequence())) return Repeat(state, right, *a);
  }
  if (op == Operator::kModulo && left.AsText()) {
    return absl::UnimplementedError("formatting a string with \"%\" is not supported");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", Sign(op), "\" does not go between ", left.AKind(), " and ", right.AKind()));
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.AsUndefined()) return UndefinedError(*value.AsUndefined());
  if (const auto integer = ToInteger(value)) return IntegerArithmetic(Operator::kSubtract, 0, *integer);
  if (const double* number = value.AsDouble()) return Value(-*number);
  return absl::InvalidArgumentError(absl::StrCat(value.AKind(), " has no negative"));
}

absl::StatusOr<bool> CompareBy(RenderState& state, Operator op, const Value& left, const Value& right) {
  SPILLWAY_RETURN_IF_ERROR(state.Charge(std::min(left.weight(), right.weight())));
  if (op == Operator::kEqual) return Equal(left, right);
  if (op == Operator::kNotEqual) return !Equal(left, right);
  if (op == Operator::kIn) return Contains(state, right, left);
  if (op == Operator::kNotIn) {
    SPILLWAY_ASSIGN_OR_RETURN(const bool contains, Contains(state, right, left));
    return !contains;
  }
  if (left.AsUndefined()) return UndefinedError(*left.AsUndefined());
  if (right.AsUndefined()) return UndefinedError(*right.AsUndefined());
  SPILLWAY_ASSIGN_OR_RETURN(const int order, Compare(left, right));
  switch (op) {
    case Operator::kLess:
      return order < 0;
    case Operator::kLessEqual:
      return order <= 0;
    case Operator::kGreater:
      return order > 0;
    default:
      return order >= 0;
  }
}

absl::StatusOr<Value> Item(RenderState& state, const Value& value, const Value& index) {
  if (value.AsUndefined()) return UndefinedError(*value.AsUndefined());
  const auto integer = ToInteger(index);
  if (const Sequence* sequence = value.AsSequence(); sequence != nullptr && integer) {
    const auto size = static_cast<int64_t>(sequence->items.size());
    const int64_t at = *integer < 0 ? *integer + size : *integer;
    if (at >= 0 && at < size) return sequence->items[at];
    return Value(Undefined{absl::StrCat("item ", *integer)});
  }
  if (const TaintedText* text = value.AsText(); text != nullptr && integer) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(8 * text->size()));
    const std::vector<size_t> offsets = CharacterOffsets(text->bytes());
    const auto size = static_cast<int64_t>(offsets.size()) - 1;
    const int64_t at = *integer < 0 ? *integer + size : *integer;
    if (at < 0 || at >= size) return Value(Undefined{absl::StrCat("character ", *integer)});
    return Value(text->Substr(offsets[at], offsets[at + 1] - offsets[at]));
  }
  if (const Dict* dict = value.AsDict()) {
    SPILLWAY_RETURN_IF_ERROR(state.Charge(static_cast<int64_t>(dict->items.size())));
    if (const Value* item = dict->Find(index)) return *item;
    return Value(Undefined{ToText(index).bytes()});
  }
  if (const TaintedText* name = index.AsText()) return GetAttribute(state, value, name->bytes());
  return Value(Undefined{"item"});
}

absl::StatusOr<Value> Slice(RenderState& state, const Value& value, const Value& start, const Value& stop,
                            const Value& step) {
  if (value.AsUndefined()) return UndefinedError(*value.AsUndefined());
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->IsUndefined() && !bound->IsNone() && !ToInteger(*bound)) {
      return absl::InvalidArgumentError(absl::StrCat(bound->AKind(), " cannot bound a slice"));
    }
  }
  const TaintedText* text = value.AsText();
  const Sequence* sequence = value.AsSequence();
  if (text == nullptr && sequence == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(value.AKind(), " cannot be sliced"));
  }
  const int64_t stride = step.IsUndefined() || step.IsNone() ? 1 : *ToInteger(step);
  if (stride == 0) return absl::InvalidArgumentError("a slice's step is zero");
  std::vector<size_t> offsets;
  if (text != nullptr) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(16 * text->size()));
    offsets = CharacterOffsets(text->bytes());
  } else {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeItems(sequence->items.size()));
  }
  const auto size = static_cast<int64_t>(text != nullptr ? offsets.size() - 1 : sequence->items.size());
  const int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? size : size - 1;
  const int64_t from = Bound(start, size, stride > 0 ? low : high, low, high);
  const int64_t to = Bound(stop, size, stride > 0 ? high : low, low, high);
  if (text != nullptr && stride == 1) {
    return Value(from < to ? text->Substr(offsets[from], offsets[to] - offsets[from]) : TaintedText());
  }
  TaintedText characters;
  std::vector<Value> items;
  for (int64_t i = from; stride > 0 ? i < to : i > to;) {
    if (text != nullptr) {
      characters.Append(*text, offsets[i], offsets[i + 1] - offsets[i]);
    } else {
      items.push_back(sequence->items[i]);
    }
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (text != nullptr) return Value(std::move(characters));
  return Value::List(std::move(items), sequence->is_tuple);
}

}  // namespace spillway::text::jinja
