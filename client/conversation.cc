#include "client/conversation.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "client/utf8.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kHelp =
    "  /clear          forget the conversation (the system message stays)\n"
    "  /system TEXT    set the system message and forget the conversation\n"
    "  /history        show the conversation so far\n"
    "  /quit           end (so does Ctrl-D)\n"
    "  \"\"\"             begin and end a message of several lines\n"
    "  Ctrl-C          stop the answer; at the prompt: end\n";
constexpr absl::string_view kFence = "\"\"\"";

}  // namespace

Conversation::Conversation(v1::ChatRequest request, Console& console, AskFunction ask)
    : request_(std::move(request)), console_(console), ask_(std::move(ask)) {}

ExitCode Conversation::Run() {
  if (console_.in_is_terminal) console_.err << "A conversation; /help shows the commands, /quit ends it.\n";
  ExitCode result = kExitOk;
  std::string message;
  while (ReadMessage(&message)) {
    if (message.empty()) continue;
    if (absl::StartsWith(message, "/")) {
      if (!RunCommand(message)) break;
      continue;
    }
    const ExitCode said = Say(message);
    if (!console_.in_is_terminal && said != kExitOk) result = said;
  }
  return result;
}

bool Conversation::ReadMessage(std::string* message) {
  message->clear();
  if (console_.in_is_terminal) console_.err << "> " << std::flush;
  std::string line;
  if (!std::getline(console_.in, line)) {
    if (console_.in_is_terminal) console_.err << "\n";
    return false;
  }
  absl::string_view rest = line;
  if (!absl::ConsumePrefix(&rest, kFence)) {
    *message = line;
    return true;
  }
  // Up to the closing fence, or the end of the input.
  while (!absl::ConsumeSuffix(&rest, kFence)) {
    absl::StrAppend(message, rest, "\n");
    if (console_.in_is_terminal) console_.err << "... " << std::flush;
    if (!std::getline(console_.in, line)) return true;
    rest = line;
  }
  absl::StrAppend(message, rest);
  return true;
}

bool Conversation::RunCommand(absl::string_view line) {
  if (line == "/quit" || line == "/exit") return false;
  if (line == "/clear") {
    const std::string system = request_.messages_size() > 0 && request_.messages(0).role() == "system"
                                   ? request_.messages(0).content()
                                   : "";
    SetSystem(system);
  } else if (absl::ConsumePrefix(&line, "/system")) {
    SetSystem(absl::StripAsciiWhitespace(line));
  } else if (line == "/history") {
    for (const v1::ChatMessage& message : request_.messages()) {
      console_.err << message.role() << ": " << EscapeForTerminal(message.content()) << "\n";
    }
  } else if (line == "/help") {
    console_.err << kHelp;
  } else {
    console_.err << "unknown command " << EscapeToOneLine(line) << "\n" << kHelp;
  }
  return true;
}

void Conversation::SetSystem(absl::string_view text) {
  request_.clear_messages();
  if (text.empty()) return;
  v1::ChatMessage* message = request_.add_messages();
  message->set_role("system");
  message->set_content(std::string(text));
}

ExitCode Conversation::Say(const std::string& text) {
  if (ValidUtf8Prefix(text) < text.size()) {
    console_.err << "spillway: the message is not UTF-8\n";
    return kExitFailed;
  }
  v1::ChatMessage* message = request_.add_messages();
  message->set_role("user");
  message->set_content(text);
  std::string answer;
  const ExitCode said = ask_(request_, &answer);
  if (said == kExitOk || (said == kExitInterrupted && !answer.empty())) {
    v1::ChatMessage* reply = request_.add_messages();
    reply->set_role("assistant");
    reply->set_content(answer);
  } else {
    request_.mutable_messages()->RemoveLast();
  }
  return said;
}

}  // namespace spillway::client
