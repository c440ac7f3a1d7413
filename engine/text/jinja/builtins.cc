#include "engine/text/jinja/builtins.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/jinja/python_text.h"

namespace spillway::text::jinja {

absl::Status RenderState::Charge(int64_t work) {
  if (work <= work_left_) {
    work_left_ -= work;
    return absl::OkStatus();
  }
  work_left_ = 0;
  return absl::ResourceExhaustedError("the template does more work than a chat template has reason to");
}

Namespace* RenderState::NewNamespace() {
  namespaces_.push_back(std::make_unique<Namespace>());
  return namespaces_.back().get();
}

absl::Status RenderState::Raise(absl::string_view message) {
  raised_ = true;
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<std::vector<Value>> Items(RenderState& state, const Value& value) {
  std::vector<Value> items;
  if (value.IsUndefined()) return items;
  if (const Sequence* sequence = value.AsSequence()) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeItems(sequence->items.size()));
    return sequence->items;
  }
  if (const Dict* dict = value.AsDict()) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeItems(dict->items.size()));
    for (const auto& item : dict->items) items.push_back(item.first);
    return items;
  }
  if (const TaintedText* text = value.AsText()) {
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text->size(), text->size()));
    const std::vector<size_t> offsets = CharacterOffsets(text->bytes());
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      items.emplace_back(text->Substr(offsets[i], offsets[i + 1] - offsets[i]));
    }
    return items;
  }
  return absl::InvalidArgumentError(absl::StrCat(value.AKind(), " has no items"));
}

absl::StatusOr<Value> GetAttribute(RenderState& state, const Value& value, absl::string_view name) {
  if (const Undefined* undefined = value.AsUndefined()) {
    return absl::InvalidArgumentError(absl::StrCat("'", undefined->name, "' is undefined"));
  }
  if (const Dict* dict = value.AsDict()) {
    SPILLWAY_RETURN_IF_ERROR(state.Charge(static_cast<int64_t>(dict->items.size())));
    if (const Value* item = dict->Find(name)) return *item;
  }
  if (const Namespace* space = value.AsNamespace()) {
    const auto it = space->attributes.find(name);
    if (it != space->attributes.end()) return it->second;
  }
  return Value(Undefined{std::string(name)});
}

absl::StatusOr<bool> Contains(RenderState& state, const Value& haystack, const Value& needle) {
  if (const TaintedText* text = haystack.AsText()) {
    if (needle.AsText() == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(needle.AKind(), " cannot be in a string"));
    }
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text->size() + needle.AsText()->size()));
    return FindText(text->bytes(), needle.AsText()->bytes(), 0) != absl::string_view::npos;
  }
  if (const Sequence* sequence = haystack.AsSequence()) {
    SPILLWAY_RETURN_IF_ERROR(state.Charge(sequence->weight));
    return std::any_of(sequence->items.begin(), sequence->items.end(),
                       [&needle](const Value& item) { return Equal(item, needle); });
  }
  if (const Dict* dict = haystack.AsDict()) {
    SPILLWAY_RETURN_IF_ERROR(state.Charge(dict->weight));
    return dict->Find(needle) != nullptr;
  }
  if (haystack.IsUndefined()) return false;
  return absl::InvalidArgumentError(absl::StrCat("nothing can be in ", haystack.AKind()));
}

}  // namespace spillway::text::jinja
