// The filters: what may stand behind "|".
#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/python_text.h"
#include "engine/text/jinja/table.h"
#include "engine/text/jinja/text_operations.h"

namespace spillway::text::jinja {
namespace {

using Arguments = Builtin::Arguments;
using Named = Builtin::Named;

// Filters on strings take any value and write it first, as Jinja's do.
absl::StatusOr<TaintedText> AsWritten(RenderState& state, const Value& value) {
  SPILLWAY_RETURN_IF_ERROR(state.Charge(8 + value.weight()));
  return ToText(value);
}

absl::StatusOr<Value> Trim(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText text, AsWritten(state, arguments[0]));
  return StripText(state, text, arguments[1], true, true);
}

template <Case kCase>
absl::StatusOr<Value> CaseFilter(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText text, AsWritten(state, arguments[0]));
  return ToCaseCharged(state, text, kCase);
}

absl::StatusOr<Value> String(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(TaintedText text, AsWritten(state, arguments[0]));
  return Value(std::move(text));
}

// Nothing is escaped, hence everything is as safe as it is.
absl::StatusOr<Value> Safe(RenderState& state, Arguments arguments, Named named) {
  return String(state, arguments, named);
}

absl::StatusOr<Value> Length(RenderState& state, Arguments arguments, Named) {
  const Value& value = arguments[0];
  if (const TaintedText* text = value.AsText()) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text->size()));
    return Value(static_cast<int64_t>(CharacterCount(text->bytes())));
  }
  if (value.AsSequence()) return Value(static_cast<int64_t>(value.AsSequence()->items.size()));
  if (value.AsDict()) return Value(static_cast<int64_t>(value.AsDict()->items.size()));
  if (value.IsUndefined()) return Value(int64_t{0});
  return absl::InvalidArgumentError(absl::StrCat(value.AKind(), " has no length"));
}

absl::StatusOr<Value> Default(RenderState&, Arguments arguments, Named) {
  const bool replace = arguments[0].IsUndefined() || (arguments[2].Truth() && !arguments[0].Truth());
  if (!replace) return arguments[0];
  return arguments[1].IsUndefined() ? Value::Literal("") : arguments[1];
}

absl::StatusOr<Value> First(RenderState& state, Arguments arguments, Named) {
  if (arguments[0].AsText() || arguments[0].AsSequence()) return Item(state, arguments[0], Value(int64_t{0}));
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(state, arguments[0]));
  return items.empty() ? Value(Undefined{"first item"}) : items.front();
}

absl::StatusOr<Value> Last(RenderState& state, Arguments arguments, Named) {
  if (arguments[0].AsText() || arguments[0].AsSequence())
    return Item(state, arguments[0], Value(int64_t{-1}));
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(state, arguments[0]));
  return items.empty() ? Value(Undefined{"last item"}) : items.back();
}

// item.a.b for "a.b"; numbers are indices.
absl::StatusOr<Value> DottedAttribute(RenderState& state, Value value, const Value& path) {
  if (path.AsInt()) return Item(state, value, path);
  if (path.AsText() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("an attribute's name is ", path.AKind()));
  }
  SPILLWAY_RETURN_IF_ERROR(state.ChargeText(path.AsText()->size()));
  const absl::string_view name = path.AsText()->bytes();
  for (const TextRange& part : SplitAt(name, ".", -1, false)) {
    const absl::string_view step = name.substr(part.begin, part.end - part.begin);
    int64_t index = 0;
    if (absl::SimpleAtoi(step, &index)) {
      SPILLWAY_ASSIGN_OR_RETURN(value, Item(state, value, Value(index)));
    } else {
      SPILLWAY_ASSIGN_OR_RETURN(value, GetAttribute(state, value, step));
    }
  }
  return value;
}

absl::StatusOr<Value> Join(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> items, Items(state, arguments[0]));
  if (!arguments[2].IsUndefined() && !arguments[2].IsNone()) {
    for (Value& item : items) {
      SPILLWAY_ASSIGN_OR_RETURN(item, DottedAttribute(state, std::move(item), arguments[2]));
    }
  }
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText separator, AsWritten(state, arguments[1]));
  return JoinText(state, items, separator);
}

absl::StatusOr<Value> ToJsonFilter(RenderState& state, Arguments arguments, Named) {
  int indent = -1;
  if (const int64_t* given = arguments[2].AsInt()) {
    if (*given < 0 || *given > 16) return absl::InvalidArgumentError("tojson's indent is not within 0..16");
    indent = static_cast<int>(*given);
  } else if (!arguments[2].IsUndefined() && !arguments[2].IsNone()) {
    return absl::InvalidArgumentError("tojson's indent is not an integer");
  }
  if (arguments[1].Truth()) return absl::UnimplementedError("tojson with ensure_ascii is not supported");
  // Each item may stand on a line of its own, indented.
  SPILLWAY_RETURN_IF_ERROR(
      state.Charge(arguments[0].weight() * (indent < 0 ? 2 : 2 + indent * int64_t{Value::kMaxDepth} / 16)));
  SPILLWAY_ASSIGN_OR_RETURN(TaintedText text, ToJson(arguments[0], indent));
  return Value(std::move(text));
}

absl::StatusOr<Value> Replace(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText text, AsWritten(state, arguments[0]));
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText from, AsWritten(state, arguments[1]));
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText to, AsWritten(state, arguments[2]));
  const int64_t* count = arguments[3].AsInt();
  return ReplaceText(state, text, from.bytes(), to, count == nullptr ? -1 : *count);
}

absl::StatusOr<Value> List(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> items, Items(state, arguments[0]));
  return Value::List(std::move(items));
}

absl::StatusOr<Value> Reverse(RenderState& state, Arguments arguments, Named) {
  if (arguments[0].AsText()) return Slice(state, arguments[0], Value(), Value(), Value(int64_t{-1}));
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> items, Items(state, arguments[0]));
  std::reverse(items.begin(), items.end());
  return Value::List(std::move(items));
}

absl::StatusOr<Value> ItemsFilter(RenderState& state, Arguments arguments, Named) {
  if (arguments[0].IsUndefined()) return Value::List({});
  if (arguments[0].AsDict() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(arguments[0].AKind(), " has no items"));
  }
  return DictItems(state, *arguments[0].AsDict(), true, true);
}

absl::StatusOr<Value> ToInt(RenderState&, Arguments arguments, Named) {
  const Value missing = arguments[1].IsUndefined() ? Value(int64_t{0}) : arguments[1];
  if (const bool* boolean = arguments[0].AsBool()) return Value(int64_t{*boolean ? 1 : 0});
  if (arguments[0].AsInt()) return arguments[0];
  double number = 0;
  if (const TaintedText* text = arguments[0].AsText()) {
    int64_t integer = 0;
    if (absl::SimpleAtoi(text->bytes(), &integer)) return Value(integer);
    if (!absl::SimpleAtod(text->bytes(), &number)) return missing;
  } else if (arguments[0].AsDouble()) {
    number = *arguments[0].AsDouble();
  } else {
    return missing;
  }
  if (!(std::fabs(number) < 9.2e18)) return missing;
  return Value(static_cast<int64_t>(number));
}

absl::StatusOr<Value> ToFloat(RenderState&, Arguments arguments, Named) {
  if (arguments[0].IsNumber() || arguments[0].AsBool()) return Value(ToDouble(arguments[0]));
  double number = 0;
  const TaintedText* text = arguments[0].AsText();
  if (text != nullptr && absl::SimpleAtod(text->bytes(), &number)) return Value(number);
  return arguments[1].IsUndefined() ? Value(0.0) : arguments[1];
}

absl::StatusOr<Value> Abs(RenderState&, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const int order, Compare(arguments[0], Value(int64_t{0})));
  return order < 0 ? Negate(arguments[0]) : arguments[0];
}

absl::StatusOr<Value> Indent(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText text, AsWritten(state, arguments[0]));
  std::string indent(4, ' ');
  if (const int64_t* width = arguments[1].AsInt()) {
    if (*width < 0 || *width > 256) return absl::InvalidArgumentError("indent's width is not within 0..256");
    indent.assign(static_cast<size_t>(*width), ' ');
  } else if (arguments[1].AsText()) {
    indent = arguments[1].AsText()->bytes();
  }
  const Origin origin =
      arguments[1].AsText() && !indent.empty() ? arguments[1].AsText()->OriginAt(0) : Origin::kTemplate;
  // One more newline, so that text that ends with one has a last, empty line.
  const std::vector<TextRange> lines = SplitLines(text.bytes() + "\n", false);
  SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text.size() + lines.size() * (indent.size() + 16)));
  const bool first = arguments[2].Truth(), blank = arguments[3].Truth();
  TaintedText result;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) result.Append("\n", Origin::kTemplate);
    const bool empty = lines[i].begin == lines[i].end;
    if (i == 0 ? first : blank || !empty) result.Append(indent, origin);
    result.Append(text, lines[i].begin, lines[i].end - lines[i].begin);
  }
  return Value(std::move(result));
}

// What an applied filter or test gets: the item, then `rest` in the order of its parameters.
absl::StatusOr<Value> ApplyTo(RenderState& state, const Builtin& builtin, const Value& item, Arguments rest) {
  if (rest.size() > builtin.parameters.size() || static_cast<int>(rest.size()) < builtin.required) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", builtin.name, "' does not take ", rest.size(), " arguments"));
  }
  SPILLWAY_RETURN_IF_ERROR(state.ChargeItems(1 + builtin.parameters.size()));
  std::vector<Value> arguments = {item};
  arguments.insert(arguments.end(), rest.begin(), rest.end());
  arguments.resize(1 + builtin.parameters.size());
  return builtin.function(state, arguments, {});
}

absl::StatusOr<Value> Map(RenderState& state, Arguments arguments, Named named) {
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> items, Items(state, arguments[0]));
  if (!named.empty()) {
    Value attribute, missing;
    for (const auto& [name, value] : named) (name == "attribute" ? attribute : missing) = value;
    for (Value& item : items) {
      SPILLWAY_ASSIGN_OR_RETURN(item, DottedAttribute(state, std::move(item), attribute));
      if (item.IsUndefined()) item = missing;
    }
    return Value::List(std::move(items));
  }
  const TaintedText* name = arguments.size() > 1 ? arguments[1].AsText() : nullptr;
  const Builtin* filter = name == nullptr ? nullptr : FindFilter(name->bytes());
  // Filters that take filters could be applied to each other without end.
  if (filter == nullptr || filter->takes_more)
    return absl::InvalidArgumentError("map takes the name of a filter");
  for (Value& item : items) {
    SPILLWAY_ASSIGN_OR_RETURN(item, ApplyTo(state, *filter, item, arguments.subspan(2)));
  }
  return Value::List(std::move(items));
}

// select, reject, selectattr and rejectattr: the items for which a test (of an attribute) holds or does not.
template <bool kKeep, bool kAttribute>
absl::StatusOr<Value> Select(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(std::vector<Value> items, Items(state, arguments[0]));
  Arguments rest = arguments.subspan(1);
  Value attribute;
  if (kAttribute) {
    if (rest.empty()) return absl::InvalidArgumentError("the name of an attribute is missing");
    attribute = rest.front();
    rest.remove_prefix(1);
  }
  const Builtin* test = nullptr;
  if (!rest.empty()) {
    test = rest.front().AsText() ? FindTest(rest.front().AsText()->bytes()) : nullptr;
    if (test == nullptr) return absl::InvalidArgumentError("select and reject take the name of a test");
    rest.remove_prefix(1);
  }
  std::vector<Value> chosen;
  for (Value& item : items) {
    Value value = item;
    if (kAttribute) {
      SPILLWAY_ASSIGN_OR_RETURN(value, DottedAttribute(state, std::move(value), attribute));
    }
    if (test != nullptr) {
      SPILLWAY_ASSIGN_OR_RETURN(value, ApplyTo(state, *test, value, rest));
    }
    if (value.Truth() == kKeep) chosen.push_back(std::move(item));
  }
  return Value::List(std::move(chosen));
}

const std::vector<Builtin>& Filters() {
  static const auto* const table = new std::vector<Builtin>{
      {.name = "abs", .function = Abs},
      {.name = "capitalize", .function = CaseFilter<Case::kCapitalized>},
      {.name = "count", .function = Length},
      {.name = "d", .function = Default, .parameters = {"default_value", "boolean"}},
      {.name = "default", .function = Default, .parameters = {"default_value", "boolean"}},
      {.name = "first", .function = First},
      {.name = "float", .function = ToFloat, .parameters = {"default"}},
      {.name = "indent", .function = Indent, .parameters = {"width", "first", "blank"}},
      {.name = "int", .function = ToInt, .parameters = {"default"}},
      {.name = "items", .function = ItemsFilter},
      {.name = "join", .function = Join, .parameters = {"d", "attribute"}},
      {.name = "last", .function = Last},
      {.name = "length", .function = Length},
      {.name = "list", .function = List},
      {.name = "lower", .function = CaseFilter<Case::kLower>},
      {.name = "map",
       .function = Map,
       .takes_more = true,
       .keywords = {"attribute", "default"},
       .filter_at = 0},
      {.name = "reject", .function = Select<false, false>, .takes_more = true, .test_at = 0},
      {.name = "rejectattr", .function = Select<false, true>, .takes_more = true, .test_at = 1},
      {.name = "replace", .function = Replace, .required = 2, .parameters = {"old", "new", "count"}},
      {.name = "reverse", .function = Reverse},
      {.name = "safe", .function = Safe},
      {.name = "select", .function = Select<true, false>, .takes_more = true, .test_at = 0},
      {.name = "selectattr", .function = Select<true, true>, .takes_more = true, .test_at = 1},
      {.name = "string", .function = String},
      {.name = "title", .function = CaseFilter<Case::kWordTitle>},
      {.name = "tojson", .function = ToJsonFilter, .parameters = {"ensure_ascii", "indent"}},
      {.name = "trim", .function = Trim, .parameters = {"chars"}},
      {.name = "upper", .function = CaseFilter<Case::kUpper>},
  };
  return *table;
}

}  // namespace

const Builtin* FindFilter(absl::string_view name) { return FindIn(Filters(), name); }
std::string FilterNames() { return NamesOf(Filters()); }

}  // namespace spillway::text::jinja
