#include "server/request_reader.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "server/options_reader.h"

namespace spillway::server {
namespace {

using TokenIdField = google::protobuf::RepeatedField<int32_t>;

// One violation for all ids out of range: the first, and how many more.
void CheckTokenIds(absl::string_view field, const TokenIdField& ids, const text::Tokenizer& tokenizer,
                   Violations* violations) {
  int first = -1;
  int bad = 0;
  for (int i = 0; i < ids.size(); ++i) {
    if (tokenizer.InRange(ids[i])) continue;
    if (bad++ == 0) first = i;
  }
  if (bad == 0) return;
  std::string description = absl::StrCat(ids[first], " is not in 0..", tokenizer.vocab_size() - 1);
  if (bad > 1) absl::StrAppend(&description, " (and ", bad - 1, " more)");
  violations->Add(absl::StrCat(field, "[", first, "]"), std::move(description));
}

// Text that the tokenizer refuses although the message parsed: a limit of its own.
void AddTextError(absl::string_view field, const absl::Status& status, Violations* violations) {
  violations->Add(field, std::string(status.message()));
}

// Text that cannot fit the context even in the vocabulary's longest tokens need not be tokenised to be
// refused.
bool CheckFitsContext(absl::string_view field, size_t size_bytes, const ServedModel& model,
                      Violations* violations) {
  const auto limit_bytes =
      static_cast<size_t>(model.context_tokens) * static_cast<size_t>(model.longest_token_bytes);
  if (limit_bytes == 0 || size_bytes <= limit_bytes) return true;
  violations->Add(
      field, absl::StrCat(size_bytes, " bytes are more than ", model.context_tokens, " tokens can be"),
      Reason::kPromptTooLong, {{"limit", absl::StrCat(limit_bytes)}, {"value", absl::StrCat(size_bytes)}});
  return false;
}

// What Tokenize takes at a time, whatever it is made of.
bool CheckTokenizeBytes(absl::string_view field, size_t size_bytes, Violations* violations) {
  if (size_bytes <= kMaxTokenizeBytes) return true;
  violations->Add(field, absl::StrCat(size_bytes, " bytes, at most ", kMaxTokenizeBytes));
  return false;
}

size_t SizeBytes(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  size_t bytes = 0;
  for (const v1::ChatMessage& message : messages) bytes += message.role().size() + message.content().size();
  return bytes;
}

size_t SizeBytes(const std::vector<text::Piece>& pieces) {
  size_t bytes = 0;
  for (const text::Piece& piece : pieces) bytes += piece.text.size();
  return bytes;
}

std::optional<text::TemplateVariable> VariableOf(const v1::TemplateVariable& in) {
  switch (in.value_case()) {
    case v1::TemplateVariable::kBoolValue:
      return in.bool_value();
    case v1::TemplateVariable::kIntValue:
      return int64_t{in.int_value()};
    case v1::TemplateVariable::kDoubleValue:
      return in.double_value();
    case v1::TemplateVariable::kStringValue:
      return in.string_value();
    case v1::TemplateVariable::VALUE_NOT_SET:
      break;
  }
  return std::nullopt;
}

}  // namespace

absl::Status RequestReader::CheckModel(absl::string_view name) const {
  if (model_.Answers(name)) return absl::OkStatus();
  return MakeError(
      Reason::kModelNotFound,
      absl::StrCat("model \"", name, "\" is not served here; served: ", absl::StrJoin(model_.names, ", ")),
      {{"value", std::string(name)}, {"served", absl::StrJoin(model_.names, ",")}});
}

absl::Status RequestReader::CheckText() const {
  if (model_.tokenizer->has_text()) return absl::OkStatus();
  return MakeError(Reason::kNoTokenizer, absl::StrCat("model \"", model_.name(),
                                                      "\" is served without a tokenizer; use token ids"));
}

absl::StatusOr<scheduler::Request> RequestReader::Read(const v1::CompleteRequest& in) const {
  SPILLWAY_RETURN_IF_ERROR(CheckModel(in.model()));
  if (in.prompt_case() == v1::CompleteRequest::kText) SPILLWAY_RETURN_IF_ERROR(CheckText());
  scheduler::Request request;
  request.method = "Complete";
  Violations violations;
  ReadOptions(in.options(), model_, &request, &violations);
  switch (in.prompt_case()) {
    case v1::CompleteRequest::kText: {
      if (in.text().empty()) {
        violations.Add("text", "must not be empty");
        break;
      }
      if (!CheckFitsContext("text", in.text().size(), model_, &violations)) break;
      absl::StatusOr<std::vector<text::TokenId>> ids = model_.tokenizer->Encode(in.text());
      if (!ids.ok()) {
        AddTextError("text", ids.status(), &violations);
        break;
      }
      request.prompt = std::move(*ids);
      break;
    }
    case v1::CompleteRequest::kTokens:
      if (in.tokens().ids().empty()) violations.Add("tokens.ids", "must not be empty");
      CheckTokenIds("tokens.ids", in.tokens().ids(), *model_.tokenizer, &violations);
      request.prompt.assign(in.tokens().ids().begin(), in.tokens().ids().end());
      break;
    case v1::CompleteRequest::PROMPT_NOT_SET:
      violations.Add("prompt", "one of text and tokens must be set");
      break;
  }
  if (!request.prompt.empty()) SettleMaxTokens(in.options(), model_, &request, &violations);
  // A text of nothing but characters that the vocabulary leaves out.
  if (request.prompt.empty() && violations.empty()) violations.Add("text", "gives no tokens");
  SPILLWAY_RETURN_IF_ERROR(violations.ToStatus());
  return request;
}

absl::StatusOr<scheduler::Request> RequestReader::Read(const v1::ChatRequest& in) const {
  SPILLWAY_RETURN_IF_ERROR(CheckModel(in.model()));
  SPILLWAY_RETURN_IF_ERROR(CheckText());
  scheduler::Request request;
  request.method = "Chat";
  Violations violations;
  ReadOptions(in.options(), model_, &request, &violations);
  if (!in.tools().empty()) violations.AddUnsupported("tools");
  text::RenderOptions render;
  const bool good = ReadRenderOptions(in, "", &render, &violations);
  if (CheckMessages(in.messages(), "messages", &violations) && good) {
    const auto add = [&violations](const absl::Status& status) {
      for (FieldViolation& violation : ViolationsOf(status)) {
        violations.Add(violation.field, std::move(violation.description), ReasonOf(status));
      }
    };
    const absl::StatusOr<std::vector<text::Piece>> pieces =
        Render(in.messages(), std::move(render), "messages");
    // Without a template nothing of the request can be served, whatever else is wrong with it.
    if (ReasonOf(pieces.status()) == Reason::kNoChatTemplate) return pieces.status();
    // Of what is rendered, not of the messages: a template may leave some of them out.
    if (!pieces.ok()) {
      add(pieces.status());
    } else if (CheckFitsContext("messages", SizeBytes(*pieces), model_, &violations)) {
      absl::StatusOr<std::vector<text::TokenId>> ids = Encode(*pieces, /*add_bos=*/true, "messages");
      if (ids.ok()) {
        request.prompt = std::move(*ids);
        SettleMaxTokens(in.options(), model_, &request, &violations);
      } else {
        add(ids.status());
      }
    }
  }
  SPILLWAY_RETURN_IF_ERROR(violations.ToStatus());
  return request;
}

bool RequestReader::CheckMessages(const Messages& messages, absl::string_view path,
                                  Violations* violations) const {
  bool good = true;
  if (messages.empty()) {
    violations->Add(path, "at least one message is needed");
    good = false;
  }
  // A message renders to a token at least: more of them than the context holds are not worth walking.
  if (messages.size() > model_.context_tokens) {
    violations->Add(
        path,
        absl::StrCat(messages.size(), " messages; a context of ", model_.context_tokens,
                     " tokens holds fewer"),
        Reason::kPromptTooLong,
        {{"limit", absl::StrCat(model_.context_tokens)}, {"value", absl::StrCat(messages.size())}});
    return false;
  }
  const auto has_no_role = [](const v1::ChatMessage& message) { return message.role().empty(); };
  const auto bad = std::count_if(messages.begin(), messages.end(), has_no_role);
  if (bad > 0) {
    const auto first = std::find_if(messages.begin(), messages.end(), has_no_role) - messages.begin();
    violations->Add(
        absl::StrCat(path, "[", first, "].role"),
        absl::StrCat("must not be empty", bad > 1 ? absl::StrCat(" (and ", bad - 1, " more)") : ""));
    good = false;
  }
  return good;
}

template <typename Chat>
bool RequestReader::ReadRenderOptions(const Chat& in, absl::string_view prefix, text::RenderOptions* options,
                                      Violations* violations) const {
  Violations found;
  options->continue_final_message = in.continue_final_message();
  options->add_generation_prompt =
      in.has_add_generation_prompt() ? in.add_generation_prompt() : !in.continue_final_message();
  if (in.continue_final_message() && options->add_generation_prompt) {
    found.Add(absl::StrCat(prefix, "continue_final_message"), "excludes add_generation_prompt");
  }
  const std::string path = absl::StrCat(prefix, "template_variables");
  if (in.template_variables().size() > kMaxTemplateVariables) {
    found.Add(path,
              absl::StrCat(in.template_variables().size(), " variables, at most ", kMaxTemplateVariables));
  } else {
    for (const auto& [name, variable] : in.template_variables()) {
      if (name.empty() || name.size() > kMaxTemplateVariableNameBytes) {
        found.Add(path, absl::StrCat("a name of ", name.size(), " bytes, must be 1..",
                                     kMaxTemplateVariableNameBytes));
      } else if (std::optional<text::TemplateVariable> value = VariableOf(variable); value.has_value()) {
        options->extra.emplace(name, *std::move(value));
      } else {
        found.Add(absl::StrCat(path, "[", name, "]"), "has no value");
      }
    }
  }
  for (FieldViolation& violation : ViolationsOf(found.ToStatus())) {
    violations->Add(violation.field, std::move(violation.description));
  }
  return found.empty();
}

absl::StatusOr<std::vector<text::Piece>> RequestReader::Render(const Messages& messages,
                                                               text::RenderOptions options,
                                                               absl::string_view path) const {
  if (!model_.chat_template.has_value()) {
    return MakeError(Reason::kNoChatTemplate, "the model file carries no chat template; use Complete");
  }
  std::vector<text::ChatMessage> rendered;
  rendered.reserve(static_cast<size_t>(messages.size()));
  for (const v1::ChatMessage& message : messages) rendered.push_back({message.role(), message.content()});
  options.bos_token = model_.bos_token;
  options.eos_token = model_.eos_token;
  options.unix_seconds =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  absl::StatusOr<std::vector<text::Piece>> pieces = model_.chat_template->Render(rendered, options);
  if (!pieces.ok()) {
    return MakeFieldError({{std::string(path), std::string(pieces.status().message())}},
                          Reason::kChatTemplateRejected);
  }
  return pieces;
}

absl::StatusOr<std::vector<text::TokenId>> RequestReader::Encode(const std::vector<text::Piece>& pieces,
                                                                 bool add_bos, absl::string_view path) const {
  absl::StatusOr<std::vector<text::TokenId>> ids = model_.tokenizer->EncodePieces(pieces, add_bos);
  if (!ids.ok()) return MakeFieldError({{std::string(path), std::string(ids.status().message())}});
  if (ids->empty()) return MakeFieldError({{std::string(path), "the template renders to no tokens"}});
  return ids;
}

absl::StatusOr<v1::TokenizeResponse> RequestReader::Tokenize(const v1::TokenizeRequest& in) const {
  SPILLWAY_RETURN_IF_ERROR(CheckModel(in.model()));
  SPILLWAY_RETURN_IF_ERROR(CheckText());
  const bool add_bos = !in.has_add_special() || in.add_special();
  Violations violations;
  std::vector<text::TokenId> ids;
  switch (in.input_case()) {
    case v1::TokenizeRequest::kText: {
      if (!CheckTokenizeBytes("text", in.text().size(), &violations)) break;
      absl::StatusOr<std::vector<text::TokenId>> encoded =
          model_.tokenizer->Encode(in.text(), {add_bos, in.parse_special()});
      if (encoded.ok()) {
        ids = std::move(*encoded);
      } else {
        AddTextError("text", encoded.status(), &violations);
      }
      break;
    }
    case v1::TokenizeRequest::kChat: {
      if (in.parse_special()) violations.Add("parse_special", "is for text, not for a conversation");
      text::RenderOptions render;
      const bool good = ReadRenderOptions(in.chat(), "chat.", &render, &violations);
      const Messages& messages = in.chat().messages();
      if (!CheckMessages(messages, "chat.messages", &violations) || !good) break;
      if (!CheckTokenizeBytes("chat.messages", SizeBytes(messages), &violations)) break;
      SPILLWAY_ASSIGN_OR_RETURN(const std::vector<text::Piece> pieces,
                                Render(messages, std::move(render), "chat.messages"));
      // A template may say things twice.
      if (!CheckTokenizeBytes("chat.messages", SizeBytes(pieces), &violations)) break;
      SPILLWAY_ASSIGN_OR_RETURN(ids, Encode(pieces, add_bos, "chat.messages"));
      break;
    }
    case v1::TokenizeRequest::INPUT_NOT_SET:
      violations.Add("input", "one of text and chat must be set");
      break;
  }
  SPILLWAY_RETURN_IF_ERROR(violations.ToStatus());
  v1::TokenizeResponse out;
  for (const text::TokenId id : ids) {
    out.add_token_ids(id);
    out.add_pieces(std::string(model_.tokenizer->TokenBytes(id)));
  }
  return out;
}

absl::StatusOr<v1::DetokenizeResponse> RequestReader::Detokenize(const v1::DetokenizeRequest& in) const {
  SPILLWAY_RETURN_IF_ERROR(CheckModel(in.model()));
  SPILLWAY_RETURN_IF_ERROR(CheckText());
  Violations violations;
  if (in.token_ids_size() > kMaxDetokenizeIds) {
    violations.Add("token_ids", absl::StrCat(in.token_ids_size(), " ids, at most ", kMaxDetokenizeIds));
  }
  CheckTokenIds("token_ids", in.token_ids(), *model_.tokenizer, &violations);
  SPILLWAY_RETURN_IF_ERROR(violations.ToStatus());
  SPILLWAY_ASSIGN_OR_RETURN(
      std::string text,
      model_.tokenizer->Decode({in.token_ids().data(), static_cast<size_t>(in.token_ids().size())},
                               /*skip_special=*/!in.keep_special_tokens()));
  v1::DetokenizeResponse out;
  out.set_text(std::move(text));
  return out;
}

}  // namespace spillway::server
