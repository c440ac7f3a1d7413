// The methods of strings and dictionaries. Methods that change their object are missing on purpose: templates
// are run in a sandbox where nothing can be changed.
#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/python_text.h"
#include "engine/text/jinja/table.h"
#include "engine/text/jinja/text_operations.h"

namespace spillway::text::jinja {
namespace {

using Arguments = Builtin::Arguments;
using Named = Builtin::Named;

absl::Status NoMethod(const Value& value, absl::string_view method) {
  if (const Undefined* undefined = value.AsUndefined()) {
    return absl::InvalidArgumentError(absl::StrCat("'", undefined->name, "' is undefined"));
  }
  return absl::InvalidArgumentError(absl::StrCat(value.AKind(), " has no method '", method, "'"));
}

// The string that a method is applied to.
absl::StatusOr<const TaintedText*> Self(RenderState& state, Arguments arguments, absl::string_view method) {
  const TaintedText* text = arguments[0].AsText();
  if (text == nullptr) return NoMethod(arguments[0], method);
  SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text->size()));
  return text;
}

absl::StatusOr<absl::string_view> TextArgument(const Value& value, absl::string_view method) {
  if (value.AsText() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("'", method, "' takes a string, not ", value.AKind()));
  }
  return absl::string_view(value.AsText()->bytes());
}

absl::StatusOr<int64_t> IntegerArgument(const Value& value, int64_t missing, absl::string_view method) {
  if (value.IsUndefined()) return missing;
  if (value.AsInt() == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("'", method, "' takes an integer, not ", value.AKind()));
  }
  return *value.AsInt();
}

template <bool kLeft, bool kRight>
absl::StatusOr<Value> StripMethod(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, "strip"));
  return StripText(state, *text, arguments[1], kLeft, kRight);
}

template <bool kFromRight>
absl::StatusOr<Value> Split(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, "split"));
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t max_splits, IntegerArgument(arguments[2], -1, "split"));
  std::vector<TextRange> parts;
  if (arguments[1].IsUndefined() || arguments[1].IsNone()) {
    if (kFromRight && max_splits >= 0) return absl::UnimplementedError("rsplit at spaces is not supported");
    parts = SplitAtSpaces(text->bytes(), max_splits);
  } else {
    SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view separator, TextArgument(arguments[1], "split"));
    if (separator.empty()) return absl::InvalidArgumentError("'split' takes a separator that is not empty");
    // Searching backwards may look at the separator anew at every byte.
    if (kFromRight) SPILLWAY_RETURN_IF_ERROR(state.ChargeText(text->size() * separator.size()));
    parts = SplitAt(text->bytes(), separator, max_splits, kFromRight);
  }
  return TextList(state, *text, parts);
}

absl::StatusOr<Value> SplitLinesMethod(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, "splitlines"));
  return TextList(state, *text, SplitLines(text->bytes(), arguments[1].Truth()));
}

template <bool kAtEnd>
absl::StatusOr<Value> HasAffix(RenderState& state, Arguments arguments, Named) {
  const char* name = kAtEnd ? "endswith" : "startswith";
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, name));
  std::vector<Value> affixes = {arguments[1]};
  if (const Sequence* tuple = arguments[1].AsSequence(); tuple != nullptr && tuple->is_tuple) {
    SPILLWAY_ASSIGN_OR_RETURN(affixes, Items(state, arguments[1]));
  }
  for (const Value& affix : affixes) {
    SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view bytes, TextArgument(affix, name));
    SPILLWAY_RETURN_IF_ERROR(state.ChargeText(bytes.size()));
    if (kAtEnd ? absl::EndsWith(text->bytes(), bytes) : absl::StartsWith(text->bytes(), bytes))
      return Value(true);
  }
  return Value(false);
}

template <bool kAtEnd>
absl::StatusOr<Value> RemoveAffix(RenderState& state, Arguments arguments, Named) {
  const char* name = kAtEnd ? "removesuffix" : "removeprefix";
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, name));
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view affix, TextArgument(arguments[1], name));
  if (kAtEnd && absl::EndsWith(text->bytes(), affix))
    return Value(text->Substr(0, text->size() - affix.size()));
  if (!kAtEnd && absl::StartsWith(text->bytes(), affix)) {
    return Value(text->Substr(affix.size(), text->size() - affix.size()));
  }
  return arguments[0];
}

template <Case kCase>
absl::StatusOr<Value> CaseMethod(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text,
                            Self(state, arguments, "upper, lower, title or capitalize"));
  return ToCaseCharged(state, *text, kCase);
}

absl::StatusOr<Value> Replace(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, "replace"));
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t count, IntegerArgument(arguments[3], -1, "replace"));
  if (!arguments[1].AsText() || !arguments[2].AsText()) {
    return absl::InvalidArgumentError("'replace' takes two strings");
  }
  return ReplaceText(state, *text, arguments[1].AsText()->bytes(), *arguments[2].AsText(), count);
}

absl::StatusOr<Value> Find(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, "find"));
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view needle, TextArgument(arguments[1], "find"));
  const size_t at = FindText(text->bytes(), needle, 0);
  if (at == absl::string_view::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(CharacterCount(absl::string_view(text->bytes()).substr(0, at))));
}

absl::StatusOr<Value> Count(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, "count"));
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view needle, TextArgument(arguments[1], "count"));
  if (needle.empty()) return Value(static_cast<int64_t>(CharacterCount(text->bytes())) + 1);
  return Value(static_cast<int64_t>(SplitAt(text->bytes(), needle, -1, false).size()) - 1);
}

absl::StatusOr<Value> JoinMethod(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* separator, Self(state, arguments, "join"));
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(state, arguments[1]));
  for (const Value& item : items) SPILLWAY_RETURN_IF_ERROR(TextArgument(item, "join").status());
  return JoinText(state, items, *separator);
}

absl::StatusOr<Value> IsDigit(RenderState& state, Arguments arguments, Named) {
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText* text, Self(state, arguments, "isdigit"));
  const std::string& bytes = text->bytes();
  if (std::any_of(bytes.begin(), bytes.end(), [](char c) { return static_cast<uint8_t>(c) >= 0x80; })) {
    return absl::UnimplementedError("'isdigit' of text that is not ASCII is not supported");
  }
  return Value(!bytes.empty() && std::all_of(bytes.begin(), bytes.end(), absl::ascii_isdigit));
}

template <bool kKeys, bool kValues>
absl::StatusOr<Value> DictMethod(RenderState& state, Arguments arguments, Named) {
  const Dict* dict = arguments[0].AsDict();
  if (dict == nullptr) return NoMethod(arguments[0], kKeys && kValues ? "items" : kKeys ? "keys" : "values");
  return DictItems(state, *dict, kKeys, kValues);
}

absl::StatusOr<Value> Get(RenderState& state, Arguments arguments, Named) {
  const Dict* dict = arguments[0].AsDict();
  if (dict == nullptr) return NoMethod(arguments[0], "get");
  SPILLWAY_RETURN_IF_ERROR(state.Charge(dict->weight));
  if (const Value* item = dict->Find(arguments[1])) return *item;
  return arguments[2].IsUndefined() ? Value(None{}) : arguments[2];
}

const std::vector<Builtin>& Methods() {
  static const auto* const table = new std::vector<Builtin>{
      {.name = "strip", .function = StripMethod<true, true>, .parameters = {"chars"}},
      {.name = "lstrip", .function = StripMethod<true, false>, .parameters = {"chars"}},
      {.name = "rstrip", .function = StripMethod<false, true>, .parameters = {"chars"}},
      {.name = "split", .function = Split<false>, .parameters = {"sep", "maxsplit"}},
      {.name = "rsplit", .function = Split<true>, .parameters = {"sep", "maxsplit"}},
      {.name = "splitlines", .function = SplitLinesMethod, .parameters = {"keepends"}},
      {.name = "startswith", .function = HasAffix<false>, .required = 1, .parameters = {"prefix"}},
      {.name = "endswith", .function = HasAffix<true>, .required = 1, .parameters = {"suffix"}},
      {.name = "removeprefix", .function = RemoveAffix<false>, .required = 1, .parameters = {"prefix"}},
      {.name = "removesuffix", .function = RemoveAffix<true>, .required = 1, .parameters = {"suffix"}},
      {.name = "upper", .function = CaseMethod<Case::kUpper>},
      {.name = "lower", .function = CaseMethod<Case::kLower>},
      {.name = "title", .function = CaseMethod<Case::kTitle>},
      {.name = "capitalize", .function = CaseMethod<Case::kCapitalized>},
      {.name = "replace", .function = Replace, .required = 2, .parameters = {"old", "new", "count"}},
      {.name = "find", .function = Find, .required = 1, .parameters = {"sub"}},
      {.name = "count", .function = Count, .required = 1, .parameters = {"sub"}},
      {.name = "join", .function = JoinMethod, .required = 1, .parameters = {"iterable"}},
      {.name = "isdigit", .function = IsDigit},
      {.name = "items", .function = DictMethod<true, true>},
      {.name = "keys", .function = DictMethod<true, false>},
      {.name = "values", .function = DictMethod<false, true>},
      {.name = "get", .function = Get, .required = 1, .parameters = {"key", "default"}},
  };
  return *table;
}

}  // namespace

const Builtin* FindMethod(absl::string_view name) { return FindIn(Methods(), name); }

}  // namespace spillway::text::jinja
