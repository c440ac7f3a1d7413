#include <string>

#include "absl/strings/str_cat.h"
#include "client/answer.h"
#include "client/channel.h"
#include "client/commands.h"
#include "client/generation_flags.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kUsage =
    "spillway complete: continue a prompt. Only the text goes to standard output.\n\n"
    "usage: spillway complete [flags] PROMPT      (a PROMPT of - is read from standard input)\n\n"
    "Examples:\n"
    "  spillway complete --max_tokens=40 \"The capital of France is\"\n"
    "  spillway complete --temperature=0 --stop='\\n' \"Q: What is 2+2? A:\"\n"
    "  spillway complete --json --logprobs=5 --max_tokens=1 \"The sun is\"\n"
    "  cat notes.txt | spillway complete --max_tokens=200 -\n"
    "  spillway complete --prompt_id=504 --prompt_id=1420      # token ids instead of text\n\n"
    "Standard input loses one final newline. In a pipe the text is exactly the model's; on a terminal "
    "control\n"
    "characters are escaped and the last line is ended.\n\n";

}  // namespace

ExitCode RunComplete(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  v1::CompleteRequest request;
  AnswerOptions answer;
  FlagTable flags;
  AddAnswerFlags(flags, &answer);
  AddGenerationFlags(flags, request.mutable_options());
  flags.AddCall<std::string>("model", "NAME", "A name or alias that `spillway models` shows.",
                             [&request](const std::string& name) { request.set_model(name); });
  flags.AddCall<int32_t>("prompt_id", "ID", "A token id of the prompt, instead of text. Repeated for each.",
                         [&request](int32_t id) { request.mutable_tokens()->add_ids(id); });
  flags.Section("The daemon");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("complete", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }

  if (answer.json && answer.stream_json) {
    return UsageError("complete", "--json and --stream_json exclude each other", console);
  }
  if (request.options().has_logprobs() && !answer.json && !answer.stream_json) {
    return UsageError("complete", "--logprobs is shown by --json or --stream_json only", console);
  }
  const size_t n_texts = parsed->positional.size();
  if (request.has_tokens() ? n_texts != 0 : n_texts != 1) {
    return UsageError("complete",
                      request.has_tokens() ? "a prompt is text or --prompt_id, not both"
                                           : absl::StrCat("one PROMPT is needed, ", n_texts, " are given",
                                                          n_texts > 1 ? "; put quotes around it" : ""),
                      console);
  }
  if (!request.has_tokens()) {
    absl::StatusOr<std::string> text = TextOfArgument(parsed->positional[0], console);
    if (!text.ok()) return Failed(text.status().message(), console);
    request.set_text(*std::move(text));
  }

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  const auto stub = v1::InferenceService::NewStub(*channel);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, /*default_timeout_ms=*/0);
  ActiveCall::Scope scope(context.active, call);
  const auto stream = stub->StreamComplete(&call, request);
  return FollowStream(*stream, call, answer, ChoicesOf(request.options()), context.active,
                      context.connection.server, console, nullptr);
}

}  // namespace spillway::client
