#include "engine/text/jinja/value.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::text::jinja {
namespace {

bool IsNumeric(const Value& value) { return value.IsNumber() || value.AsBool() != nullptr; }

// An integer or boolean; null for everything else.
std::optional<int64_t> ToInteger(const Value& value) {
  if (const int64_t* integer = value.AsInt()) return *integer;
  if (const bool* boolean = value.AsBool()) return *boolean ? 1 : 0;
  return std::nullopt;
}

int Sign(int64_t difference) { return difference < 0 ? -1 : difference > 0 ? 1 : 0; }

constexpr int64_t kMaxWeight = int64_t{1} << 40;

int64_t AddWeight(int64_t a, int64_t b) { return std::min(a + b, kMaxWeight); }

absl::Status CheckDepth(int depth) {
  if (depth <= Value::kMaxDepth) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("lists or dictionaries are nested more than ", Value::kMaxDepth, " deep"));
}

}  // namespace

const Value* Dict::Find(const Value& key) const {
  for (const auto& [name, value] : items) {
    if (Equal(name, key)) return &value;
  }
  return nullptr;
}

const Value* Dict::Find(absl::string_view key) const {
  for (const auto& [name, value] : items) {
    const TaintedText* text = name.AsText();
    if (text != nullptr && text->bytes() == key) return &value;
  }
  return nullptr;
}

absl::StatusOr<Value> Value::List(std::vector<Value> items, bool is_tuple) {
  auto sequence = std::make_shared<Sequence>();
  for (const Value& item : items) {
    sequence->depth = std::max(sequence->depth, item.depth() + 1);
    sequence->weight = AddWeight(sequence->weight, item.weight());
  }
  SPILLWAY_RETURN_IF_ERROR(CheckDepth(sequence->depth));
  sequence->items = std::move(items);
  sequence->is_tuple = is_tuple;
  Value value;
  value.value_ = std::shared_ptr<const Sequence>(std::move(sequence));
  return value;
}

absl::StatusOr<Value> Value::MakeDict(std::vector<std::pair<Value, Value>> items) {
  auto dict = std::make_shared<Dict>();
  for (auto& [key, item] : items) {
    if (key.AsText() == nullptr && !IsNumeric(key) && !key.IsNone()) {
      return absl::InvalidArgumentError(absl::StrCat(key.AKind(), " cannot be a dictionary's key"));
    }
    dict->depth = std::max(dict->depth, item.depth() + 1);
    // Finding a key looks through all of them.
    dict->weight = AddWeight(dict->weight, item.weight() + key.weight() + static_cast<int64_t>(items.size()));
    if (const Value* present = dict->Find(key)) {
      *const_cast<Value*>(present) = std::move(item);  // the dict is not shared yet
    } else {
      dict->items.emplace_back(std::move(key), std::move(item));
    }
  }
  SPILLWAY_RETURN_IF_ERROR(CheckDepth(dict->depth));
  Value value;
  value.value_ = std::shared_ptr<const Dict>(std::move(dict));
  return value;
}

const char* Value::AKind() const {
  if (IsUndefined()) return "an undefined value";
  if (IsNone()) return "none";
  if (AsBool()) return "a boolean";
  if (AsInt()) return "an integer";
  if (AsDouble()) return "a float";
  if (AsText()) return "a string";
  if (AsSequence()) return AsSequence()->is_tuple ? "a tuple" : "a list";
  if (AsDict()) return "a dictionary";
  if (AsNamespace()) return "a namespace";
  return "a function";
}

bool Value::Truth() const {
  if (IsUndefined() || IsNone()) return false;
  if (const bool* boolean = AsBool()) return *boolean;
  if (const int64_t* integer = AsInt()) return *integer != 0;
  if (const double* number = AsDouble()) return *number != 0;
  if (const TaintedText* text = AsText()) return !text->empty();
  if (const Sequence* sequence = AsSequence()) return !sequence->items.empty();
  if (const Dict* dict = AsDict()) return !dict->items.empty();
  return true;
}

int Value::depth() const {
  if (const Sequence* sequence = AsSequence()) return sequence->depth;
  if (const Dict* dict = AsDict()) return dict->depth;
  return 0;
}

int64_t Value::weight() const {
  if (const TaintedText* text = AsText()) return 1 + static_cast<int64_t>(text->size() / 16);
  if (const Sequence* sequence = AsSequence()) return sequence->weight;
  if (const Dict* dict = AsDict()) return dict->weight;
  return 1;
}

double ToDouble(const Value& value) {
  if (const double* number = value.AsDouble()) return *number;
  const auto integer = ToInteger(value);
  SPILLWAY_CHECK(integer.has_value());
  return static_cast<double>(*integer);
}

bool Equal(const Value& a, const Value& b) {
  if (IsNumeric(a) && IsNumeric(b)) {
    const auto x = ToInteger(a), y = ToInteger(b);
    return x && y ? *x == *y : ToDouble(a) == ToDouble(b);
  }
  if (a.AsText() && b.AsText()) return a.AsText()->bytes() == b.AsText()->bytes();
  if (const Sequence* x = a.AsSequence(), *y = b.AsSequence(); x && y) {
    return x->is_tuple == y->is_tuple &&
           std::equal(x->items.begin(), x->items.end(), y->items.begin(), y->items.end(), Equal);
  }
  if (const Dict* x = a.AsDict(), *y = b.AsDict(); x && y) {
    return x->items.size() == y->items.size() &&
           std::all_of(x->items.begin(), x->items.end(), [y](const auto& item) {
             const Value* other = y->Find(item.first);
             return other != nullptr && Equal(item.second, *other);
           });
  }
  if (a.IsNone() || b.IsNone()) return a.IsNone() && b.IsNone();
  if (a.IsUndefined() || b.IsUndefined()) return a.IsUndefined() && b.IsUndefined();
  if (a.AsNamespace()) return a.AsNamespace() == b.AsNamespace();
  if (a.AsMacro()) return a.AsMacro() == b.AsMacro();
  return a.AsFunction() != nullptr && a.AsFunction() == b.AsFunction();
}

absl::StatusOr<int> Compare(const Value& a, const Value& b) {
  if (IsNumeric(a) && IsNumeric(b)) {
    const auto x = ToInteger(a), y = ToInteger(b);
    if (x && y) return *x < *y ? -1 : *x > *y ? 1 : 0;
    const double u = ToDouble(a), v = ToDouble(b);
    return u < v ? -1 : u > v ? 1 : 0;
  }
  if (a.AsText() && b.AsText()) return Sign(a.AsText()->bytes().compare(b.AsText()->bytes()));
  if (const Sequence* x = a.AsSequence(), *y = b.AsSequence(); x && y && x->is_tuple == y->is_tuple) {
    for (size_t i = 0; i < x->items.size() && i < y->items.size(); ++i) {
      if (Equal(x->items[i], y->items[i])) continue;
      return Compare(x->items[i], y->items[i]);
    }
    return Sign(static_cast<int64_t>(x->items.size()) - static_cast<int64_t>(y->items.size()));
  }
  return absl::InvalidArgumentError(absl::StrCat(a.AKind(), " and ", b.AKind(), " have no order"));
}

}  // namespace spillway::text::jinja
