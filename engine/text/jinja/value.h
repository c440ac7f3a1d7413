// What a template computes with: Python's values as far as chat templates use them. Immutable, except
// namespaces, which the Render call owns. Nesting is limited, so that destroying, comparing and printing a
// value cannot exhaust the stack.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_VALUE_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/tainted_text.h"

namespace spillway::text::jinja {

class Value;
struct Builtin;
struct Macro;

struct Undefined {
  std::string name;  // what was looked up, for messages
};
struct None {};
struct Namespace {
  absl::flat_hash_map<std::string, Value> attributes;
};
struct Sequence {
  std::vector<Value> items;
  bool is_tuple = false;
  int depth = 1;  // 1 + the deepest item's
  int64_t weight = 1;
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion; keys are strings, numbers or booleans
  int depth = 1;
  int64_t weight = 1;

  const Value* Find(const Value& key) const;
  const Value* Find(absl::string_view key) const;
};

class Value {
 public:
  static constexpr int kMaxDepth = 64;

  Value() : value_(Undefined{}) {}
  Value(Undefined undefined) : value_(std::move(undefined)) {}
  Value(None) : value_(None{}) {}
  explicit Value(bool value) : value_(value) {}
  explicit Value(int64_t value) : value_(value) {}
  explicit Value(double value) : value_(value) {}
  Value(TaintedText text) : value_(std::make_shared<const TaintedText>(std::move(text))) {}
  explicit Value(Namespace* value) : value_(value) {}
  explicit Value(const Macro* macro) : value_(macro) {}
  explicit Value(const Builtin* function) : value_(function) {}

  static Value Literal(absl::string_view text) { return TaintedText(text, Origin::kTemplate); }
  // ResourceExhausted when the items are nested too deeply.
  static absl::StatusOr<Value> List(std::vector<Value> items, bool is_tuple = false);
  // A later item replaces an earlier one with the same key. InvalidArgument for a key that is a container.
  static absl::StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>> items);

  bool IsUndefined() const { return std::holds_alternative<Undefined>(value_); }
  bool IsNone() const { return std::holds_alternative<None>(value_); }
  bool IsNumber() const { return AsInt() != nullptr || AsDouble() != nullptr; }  // not counting booleans

  // Null when the value is of another kind.
  const bool* AsBool() const { return std::get_if<bool>(&value_); }
  const int64_t* AsInt() const { return std::get_if<int64_t>(&value_); }
  const double* AsDouble() const { return std::get_if<double>(&value_); }
  const TaintedText* AsText() const { return Pointee<TaintedText>(); }
  const Sequence* AsSequence() const { return Pointee<Sequence>(); }
  const Dict* AsDict() const { return Pointee<Dict>(); }
  Namespace* AsNamespace() const { return Raw<Namespace*>(); }
  const Macro* AsMacro() const { return Raw<const Macro*>(); }
  const Builtin* AsFunction() const { return Raw<const Builtin*>(); }
  const Undefined* AsUndefined() const { return std::get_if<Undefined>(&value_); }

  // "a string", "an integer", ... for messages.
  const char* AKind() const;
  bool Truth() const;
  int depth() const;
  // Bounds the work of comparing or writing the value. A list that holds another one many times weighs as
  // much as if it held as many copies; the number stops growing at 2^40.
  int64_t weight() const;

 private:
  template <typename T>
  const T* Pointee() const {
    const auto* pointer = std::get_if<std::shared_ptr<const T>>(&value_);
    return pointer == nullptr ? nullptr : pointer->get();
  }
  template <typename T>
  T Raw() const {
    const T* pointer = std::get_if<T>(&value_);
    return pointer == nullptr ? nullptr : *pointer;
  }

  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const TaintedText>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>, Namespace*, const Macro*,
               const Builtin*>
      value_;
};

// Python's ==; origins do not matter.
bool Equal(const Value& a, const Value& b);
// Negative, zero or positive for a < b, a == b, a > b. InvalidArgument for values without an order.
absl::StatusOr<int> Compare(const Value& a, const Value& b);
// A number or boolean as double. REQUIRES: it is one.
double ToDouble(const Value& value);

// What {{ value }} writes: Python's str().
TaintedText ToText(const Value& value);
// json.dumps(value, ensure_ascii=False, indent=indent); no indent when negative. InvalidArgument for what
// JSON cannot hold.
absl::StatusOr<TaintedText> ToJson(const Value& value, int indent);

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_VALUE_H_
