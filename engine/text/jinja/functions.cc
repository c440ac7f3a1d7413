// The global functions: range, dict, namespace, raise_exception, strftime_now.
#include <time.h>

#include <array>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/table.h"

namespace spillway::text::jinja {
namespace {

using Arguments = Builtin::Arguments;
using Named = Builtin::Named;

absl::StatusOr<Value> Range(RenderState& state, Arguments arguments, Named) {
  int64_t bounds[3] = {0, 0, 1};
  for (int i = 0; i < 3; ++i) {
    if (arguments[i].IsUndefined()) continue;
    if (!arguments[i].AsInt()) return absl::InvalidArgumentError("range takes integers");
    bounds[i] = *arguments[i].AsInt();
  }
  auto [start, stop, step] = bounds;
  if (arguments[1].IsUndefined()) {
    stop = start;
    start = 0;
  }
  if (step == 0) return absl::InvalidArgumentError("range's step is zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeItems(1));
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::List(std::move(items));
}

absl::StatusOr<Value> MakeDict(RenderState& state, Arguments, Named named) {
  const auto n = static_cast<int64_t>(named.size());
  SPILLWAY_RETURN_IF_ERROR(state.Charge(n * n / 2));
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [name, value] : named) items.emplace_back(Value::Literal(name), value);
  return Value::MakeDict(std::move(items));
}

absl::StatusOr<Value> MakeNamespace(RenderState& state, Arguments, Named named) {
  SPILLWAY_RETURN_IF_ERROR(state.Charge(16 + 8 * static_cast<int64_t>(named.size())));
  Namespace* space = state.NewNamespace();
  for (const auto& [name, value] : named) space->attributes[name] = value;
  return Value(space);
}

absl::StatusOr<Value> RaiseException(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_RETURN_IF_ERROR(state.Charge(arguments[0].weight()));
  return state.Raise(ToText(arguments[0]).bytes());
}

absl::StatusOr<Value> StrftimeNow(RenderState& state, Arguments arguments, Named) {
  const TaintedText* format = arguments[0].AsText();
  if (format == nullptr || format->size() > 256) {
    return absl::InvalidArgumentError("strftime_now takes a format of at most 256 bytes");
  }
  if (format->empty()) return arguments[0];
  const time_t seconds = state.unix_seconds();
  tm utc{};
  if (gmtime_r(&seconds, &utc) == nullptr) return absl::InvalidArgumentError("the time is out of range");
  std::array<char, 4096> text;
  const size_t n = strftime(text.data(), text.size(), format->bytes().c_str(), &utc);
  return Value(TaintedText(absl::string_view(text.data(), n), format->OriginAt(0)));
}

const std::vector<Builtin>& Functions() {
  static const auto* const table = new std::vector<Builtin>{
      {.name = "range", .function = Range, .required = 1, .parameters = {"start", "stop", "step"}},
      {.name = "dict", .function = MakeDict, .any_keyword = true},
      {.name = "namespace", .function = MakeNamespace, .any_keyword = true},
      {.name = "raise_exception", .function = RaiseException, .required = 1, .parameters = {"message"}},
      {.name = "strftime_now", .function = StrftimeNow, .required = 1, .parameters = {"format"}},
  };
  return *table;
}

}  // namespace

const Builtin* FindFunction(absl::string_view name) { return FindIn(Functions(), name); }

}  // namespace spillway::text::jinja
