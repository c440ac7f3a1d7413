// Python's operators over values.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_OPERATORS_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_OPERATORS_H_

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/value.h"

namespace spillway::text::jinja {

// InvalidArgument for operands that do not fit, integers beyond 64 bits and division by zero.
absl::StatusOr<Value> Arithmetic(RenderState& state, Operator op, const Value& left, const Value& right);
absl::StatusOr<Value> Negate(const Value& value);

// One of ==, !=, <, <=, >, >=, in, not in.
absl::StatusOr<bool> CompareBy(RenderState& state, Operator op, const Value& left, const Value& right);

// value[index]: undefined when there is no such item.
absl::StatusOr<Value> Item(RenderState& state, const Value& value, const Value& index);
// value[start:stop:step], undefined or none for absent parts.
absl::StatusOr<Value> Slice(RenderState& state, const Value& value, const Value& start, const Value& stop,
                            const Value& step);

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_OPERATORS_H_
