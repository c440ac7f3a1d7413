#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/answer.h"
#include "client/channel.h"
#include "client/commands.h"
#include "client/utf8.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kTokenizeUsage =
    "spillway tokenize: show how text becomes tokens, an id and its text a line.\n\n"
    "usage: spillway tokenize [flags] TEXT      (a TEXT of - is read from standard input)\n\n"
    "Examples:\n"
    "  spillway tokenize \"Hello world\"\n"
    "  spillway tokenize --ids \"Hello world\"              # the ids alone, on one line\n"
    "  spillway tokenize --chat \"Hello\"                   # as the chat template renders it\n"
    "  spillway tokenize --count - < notes.txt            # how many tokens a file has\n\n";

constexpr absl::string_view kDetokenizeUsage =
    "spillway detokenize: turn token ids back into text.\n\n"
    "usage: spillway detokenize [flags] ID...\n\n"
    "Examples:\n"
    "  spillway detokenize 504 3575 282 4649 314\n"
    "  spillway detokenize $(spillway tokenize --ids \"Hello world\")\n\n";

struct TokenizeOutput {
  bool ids = false;
  bool count = false;
  bool json = false;
};

// A token's bytes for a person: what is no whole character is shown as "\xe2".
std::string DescribePiece(absl::string_view piece) {
  std::string shown;
  while (!piece.empty()) {
    const size_t valid = ValidUtf8Prefix(piece);
    absl::StrAppend(&shown, EscapeToOneLine(piece.substr(0, valid)));
    piece.remove_prefix(valid);
    if (!piece.empty()) {
      absl::StrAppend(&shown, "\\x", absl::Hex(static_cast<uint8_t>(piece[0]), absl::kZeroPad2));
      piece.remove_prefix(1);
    }
  }
  return shown;
}

void PrintTokens(const v1::TokenizeResponse& response, const TokenizeOutput& output, std::ostream& out) {
  if (output.json) {
    out << ToJson(response) << "\n";
  } else if (output.count) {
    out << response.token_ids_size() << "\n";
  } else if (output.ids) {
    out << absl::StrJoin(response.token_ids(), " ") << "\n";
  } else {
    for (int i = 0; i < response.token_ids_size(); ++i) {
      out << response.token_ids(i) << "\t"
          << (i < response.pieces_size() ? DescribePiece(response.pieces(i)) : "") << "\n";
    }
  }
}

}  // namespace

ExitCode RunTokenize(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  v1::TokenizeRequest request;
  TokenizeOutput output;
  bool chat = false;
  FlagTable flags;
  flags.Section("Output");
  flags.AddSwitch("ids", &output.ids, "The ids alone, separated by spaces.");
  flags.AddSwitch("count", &output.count, "The number of tokens alone.");
  flags.AddSwitch("json", &output.json, "The reply as one JSON object; pieces are base64.");
  flags.Section("What is tokenized");
  flags.AddSwitch("chat", &chat, "Render the text as a user's message by the model's chat template.");
  flags.AddSwitch(
      "add_special", [&request](bool value) { request.set_add_special(value); },
      "Add the beginning-of-sequence token if the model wants one. Default: yes.");
  flags.AddSwitch(
      "parse_special", [&request](bool value) { request.set_parse_special(value); },
      "Read special tokens such as <|im_end|> in the text as what they name. Default: no.");
  flags.AddCall<std::string>("model", "NAME", "A name or alias that `spillway models` shows.",
                             [&request](const std::string& name) { request.set_model(name); });
  flags.Section("The daemon");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("tokenize", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kTokenizeUsage << flags.Help();
    return kExitOk;
  }
  if (parsed->positional.size() != 1) {
    return UsageError("tokenize",
                      absl::StrCat("one TEXT is needed, ", parsed->positional.size(), " are given"), console);
  }
  if (int{output.ids} + int{output.count} + int{output.json} > 1) {
    return UsageError("tokenize", "--ids, --count and --json exclude each other", console);
  }
  absl::StatusOr<std::string> text = TextOfArgument(parsed->positional[0], console);
  if (!text.ok()) return Failed(text.status().message(), console);
  if (chat) {
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(*std::move(text));
  } else {
    request.set_text(*std::move(text));
  }

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  const auto stub = v1::InferenceService::NewStub(*channel);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::TokenizeResponse response;
  const grpc::Status status = stub->Tokenize(&call, request, &response);
  if (!status.ok()) return CallFailed(status, context);
  PrintTokens(response, output, console.out);
  return kExitOk;
}

ExitCode RunDetokenize(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  v1::DetokenizeRequest request;
  bool json = false;
  FlagTable flags;
  flags.Section("Flags");
  flags.AddSwitch("json", &json, "The reply as one JSON object.");
  flags.AddSwitch(
      "keep_special_tokens", [&request](bool value) { request.set_keep_special_tokens(value); },
      "Keep special tokens such as <|im_end|> in the text.");
  flags.AddCall<std::string>("model", "NAME", "A name or alias that `spillway models` shows.",
                             [&request](const std::string& name) { request.set_model(name); });
  flags.Section("The daemon");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("detokenize", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kDetokenizeUsage << flags.Help();
    return kExitOk;
  }
  if (parsed->positional.empty()) return UsageError("detokenize", "at least one ID is needed", console);
  for (const std::string& argument : parsed->positional) {
    int32_t id = 0;
    if (absl::Status status = ParseFlagValue(argument, &id); !status.ok()) {
      return UsageError("detokenize", status.message(), console);
    }
    request.add_token_ids(id);
  }

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  const auto stub = v1::InferenceService::NewStub(*channel);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::DetokenizeResponse response;
  const grpc::Status status = stub->Detokenize(&call, request, &response);
  if (!status.ok()) return CallFailed(status, context);
  if (json) {
    console.out << ToJson(response) << "\n";
  } else if (console.out_is_terminal) {
    console.out << EscapeForTerminal(response.text()) << "\n";
  } else {
    console.out << response.text();
  }
  return kExitOk;
}

}  // namespace spillway::client
