#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/bytes.h"
#include "client/answer.h"
#include "client/channel.h"
#include "client/commands.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kUsage =
    "spillway models: what is served, its limits, its generation defaults and its features.\n\n"
    "usage: spillway models [flags]\n\n"
    "Examples:\n"
    "  spillway models\n"
    "  spillway models --json | jq '.models[0].context_tokens'\n\n";

std::string DescribeParameters(int64_t parameters) {
  if (parameters >= 1'000'000'000) return absl::StrFormat("%.2f B", static_cast<double>(parameters) / 1e9);
  return absl::StrFormat("%.1f M", static_cast<double>(parameters) / 1e6);
}

std::string DescribeDefaults(const v1::GenerationOptions& defaults) {
  const v1::SamplingOptions& sampling = defaults.sampling();
  std::vector<std::string> parts;
  if (defaults.has_max_tokens()) parts.push_back(absl::StrCat("max_tokens ", defaults.max_tokens()));
  parts.push_back(absl::StrCat("temperature ", sampling.temperature()));
  parts.push_back(absl::StrCat("top_k ", sampling.top_k()));
  parts.push_back(absl::StrCat("top_p ", sampling.top_p()));
  parts.push_back(absl::StrCat("min_p ", sampling.min_p()));
  parts.push_back(absl::StrCat("repetition_penalty ", sampling.repetition_penalty()));
  return absl::StrJoin(parts, ", ");
}

std::string DescribeFeatures(const v1::Features& features) {
  std::vector<std::string> parts;
  if (features.chat()) parts.push_back("chat");
  if (features.logprobs()) parts.push_back(absl::StrCat("logprobs (up to ", features.max_logprobs(), ")"));
  if (features.prefix_cache()) parts.push_back("prefix cache");
  if (features.adapters()) parts.push_back("adapters");
  if (features.constraints()) parts.push_back("constraints");
  if (features.cache_salt()) parts.push_back("cache salt");
  if (features.tools()) parts.push_back("tools");
  parts.push_back(absl::StrCat("up to ", features.max_choices(), " choices"));
  return absl::StrJoin(parts, ", ");
}

void PrintModel(const v1::Model& model, std::ostream& out) {
  const auto row = [&out](absl::string_view name, absl::string_view value) {
    out << absl::StrFormat("  %-12s %s\n", name, EscapeToOneLine(value));
  };
  out << EscapeToOneLine(model.name()) << "\n";
  if (model.aliases_size() > 0) row("aliases", absl::StrJoin(model.aliases(), ", "));
  row("architecture", absl::StrCat(model.architecture(), ", ", DescribeParameters(model.parameters()),
                                   " parameters, computed in ", model.compute_dtype()));
  if (model.weight_bytes() > 0) {
    row("weights",
        absl::StrCat(FormatBytes(model.weight_bytes()),
                     model.streamed_weight_bytes() > 0
                         ? absl::StrCat(", of which every pass loads ",
                                        FormatBytes(model.streamed_weight_bytes()), " over the link")
                         : ""));
  }
  row("vocabulary", absl::StrCat(model.vocab_size(), " tokens, ended by ids ",
                                 absl::StrJoin(model.stop_token_ids(), ", ")));
  row("context", absl::StrCat(model.context_tokens(), " tokens (the model was trained for ",
                              model.trained_context_tokens(), ")"));
  row("defaults", DescribeDefaults(model.defaults()));
  row("features", DescribeFeatures(model.features()));
  row("fingerprint", model.fingerprint());
}

}  // namespace

ExitCode RunModels(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  bool json = false;
  FlagTable flags;
  flags.Section("Flags");
  flags.AddSwitch("json", &json, "The reply as one JSON object.");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("models", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!parsed->positional.empty()) return UsageError("models", "no arguments are expected", console);

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  const auto stub = v1::InferenceService::NewStub(*channel);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::ListModelsResponse response;
  const grpc::Status status = stub->ListModels(&call, {}, &response);
  if (!status.ok()) return CallFailed(status, context);
  if (json) {
    console.out << ToJson(response) << "\n";
  } else {
    for (const v1::Model& model : response.models()) PrintModel(model, console.out);
  }
  return kExitOk;
}

}  // namespace spillway::client
