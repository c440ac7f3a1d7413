// What filters and methods have in common: operations that charge for their work and keep each byte's origin.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_TEXT_OPERATIONS_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_TEXT_OPERATIONS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/python_text.h"
#include "engine/text/jinja/value.h"

namespace spillway::text::jinja {

// `chars`: a string, or none or undefined for whitespace.
absl::StatusOr<Value> StripText(RenderState& state, const TaintedText& text, const Value& chars, bool left,
                                bool right);

// Parts between occurrences of `separator`; at most `max_splits` cuts (negative: no limit), from the left or
// right. REQUIRES: separator is not empty.
std::vector<TextRange> SplitAt(absl::string_view text, absl::string_view separator, int64_t max_splits,
                               bool from_right);

// The parts of `text` as a list of strings.
absl::StatusOr<Value> TextList(RenderState& state, const TaintedText& text,
                               const std::vector<TextRange>& parts);

// Replaces the first `count` occurrences (negative: all). An empty `from` is Unimplemented.
absl::StatusOr<Value> ReplaceText(RenderState& state, const TaintedText& text, absl::string_view from,
                                  const TaintedText& to, int64_t count);

// str() of the items with `separator` between them.
absl::StatusOr<Value> JoinText(RenderState& state, const std::vector<Value>& items,
                               const TaintedText& separator);

absl::StatusOr<Value> ToCaseCharged(RenderState& state, const TaintedText& text, Case to);

// A list of the keys, of the values, or of (key, value) tuples.
absl::StatusOr<Value> DictItems(RenderState& state, const Dict& dict, bool keys, bool values);

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_TEXT_OPERATIONS_H_
