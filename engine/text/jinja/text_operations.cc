#include "engine/text/jinja/text_operations.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace spillway::text::jinja {

absl::StatusOr<Value> StripText(RenderState& state, const TaintedText& text, const Value& chars, bool left,
                                bool right) {
  const bool spaces = chars.IsUndefined() || chars.IsNone();
  if (!spaces && chars.AsText() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("the characters to strip are ", chars.AKind()));
  }
  SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text.size()));
  if (!spaces) {
    // Each character stripped is looked for among all of `chars`.
    SPILLWAY_RETURN_IF_ERROR(
        state.Charge(static_cast<int64_t>(text.size() * (1 + chars.AsText()->size() / 8))));
  }
  const TextRange range = Strip(text.bytes(), spaces ? nullptr : &chars.AsText()->bytes(), left, right);
  return Value(text.Substr(range.begin, range.end - range.begin));
}

std::vector<TextRange> SplitAt(absl::string_view text, absl::string_view separator, int64_t max_splits,
                               bool from_right) {
  std::vector<TextRange> parts;
  const auto may_split = [&] { return max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits; };
  if (from_right) {
    size_t end = text.size();
    while (may_split()) {
      const size_t at = text.substr(0, end).rfind(separator);
      if (at == absl::string_view::npos) break;
      parts.push_back({at + separator.size(), end});
      end = at;
    }
    parts.push_back({0, end});
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  size_t begin = 0;
  while (may_split()) {
    const size_t at = FindText(text, separator, begin);
    if (at == absl::string_view::npos) break;
    parts.push_back({begin, at});
    begin = at + separator.size();
  }
  parts.push_back({begin, text.size()});
  return parts;
}

absl::StatusOr<Value> TextList(RenderState& state, const TaintedText& text,
                               const std::vector<TextRange>& parts) {
  SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text.size(), parts.size()));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const TextRange& part : parts) items.emplace_back(text.Substr(part.begin, part.end - part.begin));
  return Value::List(std::move(items));
}

absl::StatusOr<Value> ReplaceText(RenderState& state, const TaintedText& text, absl::string_view from,
                                  const TaintedText& to, int64_t count) {
  if (from.empty()) return absl::UnimplementedError("replacing the empty string is not supported");
  const std::vector<TextRange> parts = SplitAt(text.bytes(), from, count, /*from_right=*/false);
  SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text.size() + parts.size() * (to.size() + 16)));
  TaintedText result;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) result.Append(to);
    result.Append(text, parts[i].begin, parts[i].end - parts[i].begin);
  }
  return Value(std::move(result));
}

absl::StatusOr<Value> JoinText(RenderState& state, const std::vector<Value>& items,
                               const TaintedText& separator) {
  TaintedText result;
  for (size_t i = 0; i < items.size(); ++i) {
    SPILLWAY_RETURN_IF_ERROR(state.Charge(items[i].weight()));
    const TaintedText item = ToText(items[i]);
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(item.size() + separator.size()));
    if (i > 0) result.Append(separator);
    result.Append(item);
  }
  return Value(std::move(result));
}

absl::StatusOr<Value> ToCaseCharged(RenderState& state, const TaintedText& text, Case to) {
  SPILLWAY_RETURN_IF_ERROR(state.ChargeText(16 * text.size()));
  return Value(ToCase(text, to));
}

absl::StatusOr<Value> DictItems(RenderState& state, const Dict& dict, bool keys, bool values) {
  SPILLWAY_RETURN_IF_ERROR(state.Charge(16 * static_cast<int64_t>(dict.items.size())));
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    if (!keys || !values) {
      items.push_back(keys ? key : value);
      continue;
    }
    SPILLWAY_ASSIGN_OR_RETURN(Value item, Value::List({key, value}, /*is_tuple=*/true));
    items.push_back(std::move(item));
  }
  return Value::List(std::move(items));
}

}  // namespace spillway::text::jinja
