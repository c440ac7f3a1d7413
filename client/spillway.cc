#include "client/spillway.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/call_error.h"
#include "client/commands.h"
#include "client/utf8.h"

namespace spillway::client {
namespace {

struct Command {
  absl::string_view name;
  absl::string_view summary;
  ExitCode (*run)(absl::Span<const std::string> args, CommandContext& context);
};

constexpr std::array<Command, 11> kCommands = {{
    {"complete", "continue a prompt", RunComplete},
    {"chat", "talk to the model: one question, or a conversation", RunChat},
    {"tokenize", "show how text becomes tokens", RunTokenize},
    {"detokenize", "turn token ids back into text", RunDetokenize},
    {"status", "what the daemon is doing: requests, cache, memory", RunStatus},
    {"plan", "how a batch would be served: split, times, memory, other ways", RunPlan},
    {"profile", "the measured rates of the machine, which plans are made from", RunProfile},
    {"trace", "what each lane does when, for Perfetto", RunTrace},
    {"drain", "tell the daemon to finish what runs and to exit", RunDrain},
    {"token", "make a token for the daemon's --tokens_file", RunToken},
    {"models", "what is served, its limits and its generation defaults", RunModels},
}};

std::string Usage(const FlagTable& flags) {
  std::string text =
      "spillway talks to a Spillway daemon.\n\n"
      "usage: spillway [--server=HOST:PORT] COMMAND [flags] [arguments]\n\n"
      "Commands:\n";
  for (const Command& command : kCommands) {
    absl::StrAppendFormat(&text, "  %-11s %s\n", command.name, command.summary);
  }
  absl::StrAppend(&text,
                  "\nExamples:\n"
                  "  spillway complete --max_tokens=40 \"The capital of France is\"\n"
                  "  spillway chat \"Why is the sky blue?\"\n"
                  "  spillway chat                          # a conversation; /help inside it\n"
                  "  git diff | spillway complete -         # the prompt from standard input\n"
                  "  spillway status\n"
                  "  spillway COMMAND --help                # flags and examples of a command\n"
                  "  spillway --version\n\n",
                  flags.Help(),
                  "\nEnvironment:\n"
                  "  SPILLWAY_SERVER, SPILLWAY_TLS, SPILLWAY_TLS_CA, SPILLWAY_TLS_CLIENT_CERTIFICATE,\n"
                  "  SPILLWAY_TLS_CLIENT_KEY, SPILLWAY_TLS_SERVER_NAME, SPILLWAY_TOKEN_FILE\n"
                  "                    in place of the flags of these names\n"
                  "  SPILLWAY_TOKEN    the token itself\n"
                  "  TRACEPARENT       a W3C trace context that the daemon's log then names\n\n"
                  "Exit codes: 0 ok, 1 failed, 2 wrong usage, 130 interrupted.\n");
  return text;
}

}  // namespace

ExitCode RunSpillway(absl::Span<const std::string> args, Console& console, ActiveCall& active) {
  CommandContext context{DefaultConnectionOptions(), console, active};
  FlagTable flags;
  flags.Section("Flags of every command");
  AddConnectionFlags(flags, &context.connection);
  for (const std::string& arg : args) {
    if (arg.empty() || arg[0] != '-') break;
    if (arg != "--version") continue;
    console.out << "spillway " SPILLWAY_VERSION "\n";
    return kExitOk;
  }
  const absl::StatusOr<ParsedArgs> parsed = flags.ParseLeading(args);
  if (!parsed.ok()) return UsageError("", parsed.status().message(), console);

  std::vector<std::string> rest = parsed->positional;
  bool help = parsed->help;
  if (!rest.empty() && rest[0] == "help") {
    help = true;
    rest.erase(rest.begin());
  }
  if (rest.empty()) {
    (help ? console.out : console.err) << Usage(flags);
    return help ? kExitOk : kExitUsage;
  }
  const std::string name = rest[0];
  const auto command = std::find_if(kCommands.begin(), kCommands.end(),
                                    [&name](const Command& known) { return known.name == name; });
  if (command == kCommands.end()) {
    std::vector<std::string> names;
    for (const Command& known : kCommands) names.emplace_back(known.name);
    const std::string nearest = NearestName(name, names);
    return UsageError("",
                      absl::StrCat("unknown command \"", name, "\"",
                                   nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest, "?")),
                      console);
  }
  rest.erase(rest.begin());
  if (help) rest = {"--help"};
  return command->run(rest, context);
}

ExitCode UsageError(absl::string_view command, absl::string_view message, Console& console) {
  console.err << "spillway: " << EscapeToOneLine(message) << "\n"
              << "  remedy: see `spillway " << command << (command.empty() ? "" : " ") << "--help`\n";
  return kExitUsage;
}

ExitCode CallFailed(const grpc::Status& status, const CommandContext& context) {
  if (context.active.cancelled() && status.error_code() == grpc::StatusCode::CANCELLED) {
    return kExitInterrupted;
  }
  context.console.err << DescribeError(DecodeError(status), context.connection.server);
  return kExitFailed;
}

ExitCode Failed(absl::string_view message, Console& console) {
  console.err << "spillway: " << EscapeToOneLine(message) << "\n";
  return kExitFailed;
}

absl::StatusOr<std::string> TextOfArgument(const std::string& argument, Console& console) {
  std::string text = argument;
  if (argument == "-") {
    text.assign(std::istreambuf_iterator<char>(console.in), std::istreambuf_iterator<char>());
    // `echo` and editors end the last line; that newline is hardly ever part of what was meant.
    if (!text.empty() && text.back() == '\n') text.pop_back();
  }
  if (const size_t valid = ValidUtf8Prefix(text); valid < text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text is not UTF-8: byte ", valid, " begins no character; convert it with iconv"));
  }
  return text;
}

}  // namespace spillway::client
