#include "client/answer.h"
#include "client/call_error.h"
#include "client/channel.h"
#include "client/commands.h"
#include "spillway/v1/admin.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kUsage =
    "spillway profile: the rates of the daemon's machine for its model, as they were measured: what plans "
    "are "
    "made from.\n\n"
    "usage: spillway profile [flags]\n\n"
    "Examples:\n"
    "  spillway profile\n"
    "  spillway profile --json > profile.json     # the whole profile, as spillwayd saves it\n\n"
    "spillwayd --model=FILE --profile_only measures a machine without serving.\n\n";

}  // namespace

ExitCode RunProfile(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  bool json = false;
  FlagTable flags;
  flags.Section("Flags");
  flags.AddSwitch("json", &json, "The whole profile, as spillwayd saves it.");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("profile", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!parsed->positional.empty()) return UsageError("profile", "no arguments are expected", console);

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::GetProfileResponse response;
  const grpc::Status called = v1::AdminService::NewStub(*channel)->GetProfile(&call, {}, &response);
  if (!called.ok()) return CallFailed(called, context);
  console.out << EscapeForTerminal(json ? response.json() : response.text());
  return kExitOk;
}

}  // namespace spillway::client
