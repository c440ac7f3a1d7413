#include "engine/text/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/parser.h"
#include "engine/text/utf8.h"

namespace spillway::text {
namespace {

using jinja::Origin;
using jinja::TaintedText;
using jinja::Value;

// Roles that clients may choose and that templates turn into special tokens.
constexpr absl::string_view kRoles[] = {"system",    "user",     "assistant", "tool",
                                        "developer", "function", "model"};

// What a template may do: see jinja::RenderState. Real ones need a few hundred units a message, and pass a
// few times over each text.
constexpr int64_t kWork = 2'000'000;
constexpr int64_t kWorkPerMessage = 4'000;
constexpr int64_t kWorkPerByte = 4;
constexpr size_t kTextBytes = size_t{4} << 20;
constexpr size_t kTextBytesPerByte = 4;

absl::Status CheckUtf8(absl::string_view text, absl::string_view what) {
  if (const auto offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not valid UTF-8 at byte ", *offset));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> MessageValue(const ChatMessage& message, size_t index) {
  SPILLWAY_RETURN_IF_ERROR(CheckUtf8(message.role, absl::StrCat("the role of message ", index)));
  SPILLWAY_RETURN_IF_ERROR(CheckUtf8(message.content, absl::StrCat("the content of message ", index)));
  const bool known = std::find(std::begin(kRoles), std::end(kRoles), message.role) != std::end(kRoles);
  std::vector<std::pair<Value, Value>> items;
  items.emplace_back(Value::Literal("role"),
                     TaintedText(message.role, known ? Origin::kTemplate : Origin::kContent));
  items.emplace_back(Value::Literal("content"), TaintedText(message.content, Origin::kContent));
  return Value::MakeDict(std::move(items));
}

Value VariableValue(const TemplateVariable& variable) {
  if (const bool* boolean = std::get_if<bool>(&variable)) return Value(*boolean);
  if (const int64_t* integer = std::get_if<int64_t>(&variable)) return Value(*integer);
  if (const double* number = std::get_if<double>(&variable)) return Value(*number);
  return TaintedText(std::get<std::string>(variable), Origin::kContent);
}

// Cuts the pieces behind the last appearance of `content`. It is looked for in what messages brought in
// alone: a template's own words may equal it.
absl::Status CutBehind(absl::string_view content, std::vector<Piece>& pieces) {
  const absl::string_view bare = absl::StripAsciiWhitespace(content);
  if (bare.empty()) return absl::InvalidArgumentError("the last message has no content to go on with");
  const absl::string_view tail = absl::StripLeadingAsciiWhitespace(content).substr(bare.size());
  for (size_t i = pieces.size(); i-- > 0;) {
    std::string& text = pieces[i].text;
    const size_t at = pieces[i].parse_special ? absl::string_view::npos : absl::string_view(text).rfind(bare);
    if (at == absl::string_view::npos) continue;
    size_t end = at + bare.size();
    // Templates that trim contents trim this one too.
    if (absl::StartsWith(absl::string_view(text).substr(end), tail)) end += tail.size();
    text.resize(end);
    pieces.resize(i + 1);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "the template does not render the last message's content as it is, so it cannot be continued");
}

}  // namespace

ChatTemplate::ChatTemplate(std::shared_ptr<const jinja::Program> program) : program_(std::move(program)) {}

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(absl::string_view source) {
  SPILLWAY_RETURN_IF_ERROR(CheckUtf8(source, "the chat template"));
  SPILLWAY_ASSIGN_OR_RETURN(jinja::Program program, jinja::Parse(source));
  return ChatTemplate(std::make_shared<const jinja::Program>(std::move(program)));
}

absl::StatusOr<std::vector<Piece>> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                        const RenderOptions& options) const {
  jinja::Interpreter::Variables globals;
  size_t input_bytes = 0;
  std::vector<Value> message_values;
  for (const ChatMessage& message : messages) {
    input_bytes += message.role.size() + message.content.size();
    SPILLWAY_ASSIGN_OR_RETURN(Value value, MessageValue(message, message_values.size()));
    message_values.push_back(std::move(value));
  }
  SPILLWAY_ASSIGN_OR_RETURN(globals["messages"], Value::List(std::move(message_values)));
  globals["tools"] = jinja::None{};
  globals["documents"] = jinja::None{};
  globals["add_generation_prompt"] = Value(options.add_generation_prompt);
  if (!options.bos_token.empty()) globals["bos_token"] = Value::Literal(options.bos_token);
  if (!options.eos_token.empty()) globals["eos_token"] = Value::Literal(options.eos_token);
  for (const auto& [name, variable] : options.extra) {
    if (name == "bos_token" || name == "eos_token" || globals.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat("template variable '", name, "' cannot be given"));
    }
    if (const std::string* text = std::get_if<std::string>(&variable)) {
      SPILLWAY_RETURN_IF_ERROR(CheckUtf8(*text, absl::StrCat("template variable '", name, "'")));
      input_bytes += text->size();
    }
    globals[name] = VariableValue(variable);
  }

  const auto bytes = static_cast<int64_t>(input_bytes);
  const jinja::Limits limits{
      .work = kWork + kWorkPerMessage * static_cast<int64_t>(messages.size()) + kWorkPerByte * bytes,
      .text_bytes = kTextBytes + kTextBytesPerByte * input_bytes};
  jinja::Interpreter interpreter(*program_, std::move(globals), limits, options.unix_seconds);
  SPILLWAY_ASSIGN_OR_RETURN(const TaintedText text, interpreter.Run());

  std::vector<Piece> pieces;
  size_t begin = 0;
  for (const TaintedText::Run& run : text.runs()) {
    pieces.push_back({text.bytes().substr(begin, run.end - begin), run.origin == Origin::kTemplate});
    begin = run.end;
  }
  if (options.continue_final_message) {
    SPILLWAY_CHECK(!options.add_generation_prompt);
    if (messages.empty()) return absl::InvalidArgumentError("there is no message to go on with");
    SPILLWAY_RETURN_IF_ERROR(CutBehind(messages.back().content, pieces));
  }
  return pieces;
}

}  // namespace spillway::text
