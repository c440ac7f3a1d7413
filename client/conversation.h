// The interactive conversation of `spillway chat`.
#ifndef SPILLWAY_CLIENT_CONVERSATION_H_
#define SPILLWAY_CLIENT_CONVERSATION_H_

#include <functional>
#include <string>

#include "absl/strings/string_view.h"
#include "client/console.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::client {

// Sends `request`, shows the answer and puts what arrived of it into `answer`.
using AskFunction = std::function<ExitCode(const v1::ChatRequest& request, std::string* answer)>;

// Reads a message a line, asks with the whole conversation so far, and goes on until the input ends or /quit.
// A message that failed is taken out again, so that it can be repeated; an answer cut short by Ctrl-C stays
// as far as it came. Lines that begin with a slash are commands (/help lists them). On a terminal a prompt is
// shown, on stderr. `request` holds the options and the messages to begin with.
class Conversation {
 public:
  Conversation(v1::ChatRequest request, Console& console, AskFunction ask);
  // kExitFailed when the input is no terminal and a message failed; a person has seen it and goes on.
  ExitCode Run();

 private:
  // The next message, joined of the lines between two `"""`. False at the end of the input.
  bool ReadMessage(std::string* message);
  // False for /quit.
  bool RunCommand(absl::string_view line);
  void SetSystem(absl::string_view text);
  ExitCode Say(const std::string& message);

  v1::ChatRequest request_;
  Console& console_;
  const AskFunction ask_;
};

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_CONVERSATION_H_
