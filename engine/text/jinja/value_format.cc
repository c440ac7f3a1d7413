// How values are written: Python's str() and repr(), and JSON.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "engine/text/jinja/python_text.h"
#include "engine/text/jinja/value.h"

namespace spillway::text::jinja {
namespace {

void AppendPlain(absl::string_view bytes, TaintedText& out) { out.Append(bytes, Origin::kTemplate); }

// Copies `text` byte by byte, putting `escape(byte)` in place of a byte where that is not empty.
template <typename EscapeFn>
void AppendEscaped(const TaintedText& text, const EscapeFn& escape, TaintedText& out) {
  size_t copied = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string replacement = escape(text.bytes()[i]);
    if (replacement.empty()) continue;
    out.Append(text, copied, i - copied);
    out.Append(replacement, text.OriginAt(i));
    copied = i + 1;
  }
  out.Append(text, copied, text.size() - copied);
}

// repr() of a string. Non-ASCII characters that Python would not call printable are written as they are.
void AppendStringRepr(const TaintedText& text, TaintedText& out) {
  const bool has_single = text.bytes().find('\'') != std::string::npos;
  const bool has_double = text.bytes().find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  AppendPlain(absl::string_view(&quote, 1), out);
  AppendEscaped(
      text,
      [quote](char c) -> std::string {
        if (c == quote || c == '\\') return {'\\', c};
        if (c == '\n') return "\\n";
        if (c == '\r') return "\\r";
        if (c == '\t') return "\\t";
        if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) return absl::StrFormat("\\x%02x", c);
        return "";
      },
      out);
  AppendPlain(absl::string_view(&quote, 1), out);
}

void AppendRepr(const Value& value, TaintedText& out);

void AppendItems(const std::vector<Value>& items, TaintedText& out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) AppendPlain(", ", out);
    AppendRepr(items[i], out);
  }
}

void AppendRepr(const Value& value, TaintedText& out) {
  if (value.IsUndefined()) return AppendPlain("Undefined", out);
  if (value.IsNone()) return AppendPlain("None", out);
  if (const bool* boolean = value.AsBool()) return AppendPlain(*boolean ? "True" : "False", out);
  if (const int64_t* integer = value.AsInt()) return AppendPlain(absl::StrCat(*integer), out);
  if (const double* number = value.AsDouble()) return AppendPlain(FloatRepr(*number), out);
  if (const TaintedText* text = value.AsText()) return AppendStringRepr(*text, out);
  if (const Sequence* sequence = value.AsSequence()) {
    AppendPlain(sequence->is_tuple ? "(" : "[", out);
    AppendItems(sequence->items, out);
    return AppendPlain(!sequence->is_tuple ? "]" : sequence->items.size() == 1 ? ",)" : ")", out);
  }
  if (const Dict* dict = value.AsDict()) {
    AppendPlain("{", out);
    bool first = true;
    for (const auto& [key, item] : dict->items) {
      if (!first) AppendPlain(", ", out);
      first = false;
      AppendRepr(key, out);
      AppendPlain(": ", out);
      AppendRepr(item, out);
    }
    return AppendPlain("}", out);
  }
  AppendPlain(value.AsNamespace() ? "<Namespace>" : "<Macro>", out);
}

std::string JsonEscape(char c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    default:
      return static_cast<uint8_t>(c) < 0x20 ? absl::StrFormat("\\u%04x", c) : "";
  }
}

void AppendJsonString(const TaintedText& text, TaintedText& out) {
  AppendPlain("\"", out);
  AppendEscaped(text, JsonEscape, out);
  AppendPlain("\"", out);
}

class JsonWriter {
 public:
  explicit JsonWriter(int indent) : indent_(indent) {}

  absl::Status Write(const Value& value, int level) {
    if (value.IsNone()) return Plain("null");
    if (const bool* boolean = value.AsBool()) return Plain(*boolean ? "true" : "false");
    if (const int64_t* integer = value.AsInt()) return Plain(absl::StrCat(*integer));
    if (const double* number = value.AsDouble()) {
      const std::string text = FloatRepr(*number);
      return Plain(text == "nan" ? "NaN" : text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text);
    }
    if (const TaintedText* text = value.AsText()) {
      AppendJsonString(*text, out_);
      return absl::OkStatus();
    }
    if (const Sequence* sequence = value.AsSequence()) {
      return WriteContainer("[", "]", sequence->items.size(), level,
                            [&](size_t i) { return Write(sequence->items[i], level + 1); });
    }
    if (const Dict* dict = value.AsDict()) {
      return WriteContainer("{", "}", dict->items.size(), level, [&](size_t i) -> absl::Status {
        const auto& [key, item] = dict->items[i];
        if (const TaintedText* text = key.AsText()) {
          AppendJsonString(*text, out_);
        } else {
          AppendPlain("\"", out_);
          SPILLWAY_RETURN_IF_ERROR(Write(key, level + 1));
          AppendPlain("\"", out_);
        }
        AppendPlain(": ", out_);
        return Write(item, level + 1);
      });
    }
    return absl::InvalidArgumentError(absl::StrCat(value.AKind(), " cannot be written as JSON"));
  }

  TaintedText Take() { return std::move(out_); }

 private:
  absl::Status Plain(absl::string_view bytes) {
    AppendPlain(bytes, out_);
    return absl::OkStatus();
  }

  void NewLine(int level) {
    if (indent_ >= 0)
      AppendPlain(std::string(1, '\n') + std::string(static_cast<size_t>(level) * indent_, ' '), out_);
  }

  template <typename WriteItemFn>
  absl::Status WriteContainer(absl::string_view open, absl::string_view close, size_t n, int level,
                              const WriteItemFn& write_item) {
    AppendPlain(open, out_);
    for (size_t i = 0; i < n; ++i) {
      if (i > 0) AppendPlain(indent_ >= 0 ? "," : ", ", out_);
      NewLine(level + 1);
      SPILLWAY_RETURN_IF_ERROR(write_item(i));
    }
    if (n > 0) NewLine(level);
    AppendPlain(close, out_);
    return absl::OkStatus();
  }

  const int indent_;
  TaintedText out_;
};

}  // namespace

TaintedText ToText(const Value& value) {
  if (const TaintedText* text = value.AsText()) return *text;
  TaintedText out;
  if (!value.IsUndefined()) AppendRepr(value, out);
  return out;
}

absl::StatusOr<TaintedText> ToJson(const Value& value, int indent) {
  JsonWriter writer(indent);
  SPILLWAY_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

}  // namespace spillway::text::jinja
