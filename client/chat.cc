#include <fstream>
#include <iterator>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/answer.h"
#include "client/channel.h"
#include "client/commands.h"
#include "client/conversation.h"
#include "client/generation_flags.h"
#include "client/utf8.h"
#include "nlohmann/json.hpp"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kUsage =
    "spillway chat: talk to the model. The conversation is rendered by the model's own chat template.\n\n"
    "usage: spillway chat [flags] MESSAGE      (one answer; a MESSAGE of - is read from standard input)\n"
    "       spillway chat [flags]              (a conversation, a message a line; /help inside it)\n\n"
    "Examples:\n"
    "  spillway chat \"Why is the sky blue?\"\n"
    "  spillway chat --system=\"Answer in one sentence.\" --temperature=0\n"
    "  spillway chat --messages=conversation.json\n"
    "      where the file holds [{\"role\": \"user\", \"content\": \"Hello\"}, ...]\n"
    "  spillway chat --json \"Name a colour.\" | jq -r '.choices[0].text'\n\n";

void AddMessage(absl::string_view role, const std::string& content, v1::ChatRequest* request) {
  v1::ChatMessage* message = request->add_messages();
  message->set_role(std::string(role));
  message->set_content(content);
}

// Appends the messages of a JSON file. InvalidArgument names the file and what is wrong with it.
absl::Status AddMessagesOf(const std::string& path, v1::ChatRequest* request) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("--messages: cannot open ", path));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const nlohmann::json list = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("--messages: ", path, " is not a JSON list of messages"));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const nlohmann::json& item = list[i];
    if (!item.is_object() || !item.contains("role") || !item["role"].is_string() ||
        !item.contains("content") || !item["content"].is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("--messages: message ", i, " of ", path,
                                                     " needs the strings \"role\" and \"content\""));
    }
    AddMessage(item["role"].get<std::string>(), item["content"].get<std::string>(), request);
  }
  return absl::OkStatus();
}

// "enable_thinking=false" as the JSON value that it is, else as text. False: there is no name.
bool AddTemplateVariable(const std::string& text, v1::ChatRequest* request) {
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos) return false;
  v1::TemplateVariable& variable = (*request->mutable_template_variables())[text.substr(0, equals)];
  const std::string value = text.substr(equals + 1);
  const nlohmann::json json = nlohmann::json::parse(value, nullptr, /*allow_exceptions=*/false);
  if (json.is_boolean()) {
    variable.set_bool_value(json.get<bool>());
  } else if (json.is_number_integer() &&
             (!json.is_number_unsigned() || json.get<uint64_t>() <= std::numeric_limits<int64_t>::max())) {
    variable.set_int_value(json.get<int64_t>());
  } else if (json.is_number_float()) {
    variable.set_double_value(json.get<double>());
  } else {
    variable.set_string_value(json.is_string() ? json.get<std::string>() : value);
  }
  return true;
}

}  // namespace

ExitCode RunChat(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  v1::ChatRequest options;
  AnswerOptions answer;
  std::string system;
  std::string messages_file;
  FlagTable flags;
  flags.Section("The conversation");
  flags.Add("system", &system, "TEXT", "A system message before everything else.");
  flags.Add("messages", &messages_file, "FILE", "A JSON list of messages that went before.");
  std::vector<std::string> bad_variables;
  flags.AddCall<std::string>(
      "template_variable", "NAME=VALUE",
      "A further variable for the model's template; VALUE is JSON (true, 3, \"text\"), or "
      "else text. Give it again for more than one.",
      [&](const std::string& text) {
        if (!AddTemplateVariable(text, &options)) bad_variables.push_back(text);
      });
  flags.AddSwitch(
      "continue_final_message", [&](bool value) { options.set_continue_final_message(value); },
      "Go on where the last message of --messages ends, instead of beginning a turn.");
  AddAnswerFlags(flags, &answer);
  AddGenerationFlags(flags, options.mutable_options());
  flags.AddCall<std::string>("model", "NAME", "A name or alias that `spillway models` shows.",
                             [&options](const std::string& name) { options.set_model(name); });
  flags.Section("The daemon");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("chat", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!bad_variables.empty()) {
    return UsageError("chat", absl::StrCat("--template_variable=", bad_variables[0], ": expected NAME=VALUE"),
                      console);
  }
  if (answer.json && answer.stream_json) {
    return UsageError("chat", "--json and --stream_json exclude each other", console);
  }
  if (options.options().has_logprobs() && !answer.json && !answer.stream_json) {
    return UsageError("chat", "--logprobs is shown by --json or --stream_json only", console);
  }
  if (parsed->positional.size() > 1) {
    return UsageError("chat", "one MESSAGE is expected; put quotes around it", console);
  }
  const bool interactive = parsed->positional.empty() && messages_file.empty();
  if (interactive && ChoicesOf(options.options()) > 1) {
    return UsageError("chat", "a conversation goes on with one answer; --choices needs a MESSAGE", console);
  }

  v1::ChatRequest request = options;
  if (ValidUtf8Prefix(system) < system.size()) return Failed("--system is not UTF-8", console);
  if (!system.empty()) AddMessage("system", system, &request);
  if (!messages_file.empty()) {
    if (absl::Status status = AddMessagesOf(messages_file, &request); !status.ok()) {
      return Failed(status.message(), console);
    }
  }

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  const auto stub = v1::InferenceService::NewStub(*channel);
  const AskFunction ask = [&](const v1::ChatRequest& asked, std::string* text) {
    grpc::ClientContext call;
    SetDeadline(call, context.connection.timeout, /*default_timeout_ms=*/0);
    ActiveCall::Scope scope(context.active, call);
    const auto stream = stub->StreamChat(&call, asked);
    return FollowStream(*stream, call, answer, ChoicesOf(asked.options()), context.active,
                        context.connection.server, console, text);
  };
  if (interactive) return Conversation(std::move(request), console, ask).Run();

  if (!parsed->positional.empty()) {
    const absl::StatusOr<std::string> text = TextOfArgument(parsed->positional[0], console);
    if (!text.ok()) return Failed(text.status().message(), console);
    AddMessage("user", *text, &request);
  }
  return ask(request, nullptr);
}

}  // namespace spillway::client
