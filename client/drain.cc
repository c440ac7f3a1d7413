// `spillway drain`: tells the daemon to finish what runs and to exit.
#include "absl/strings/str_cat.h"
#include "client/channel.h"
#include "client/commands.h"
#include "spillway/v1/admin.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kUsage =
    "spillway drain: tell the daemon to finish what runs and to exit, as SIGTERM does.\n\n"
    "usage: spillway drain [flags]\n\n"
    "It answers at once: the daemon goes on accepting for its --lame_duck_ms, and lets its streams finish "
    "for\n"
    "its --drain_timeout_ms. Where the daemon wants tokens, one of role admin is needed.\n\n";

}  // namespace

ExitCode RunDrain(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  FlagTable flags;
  flags.Section("Flags");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("drain", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!parsed->positional.empty()) return UsageError("drain", "no arguments are expected", console);

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::DrainResponse response;
  const grpc::Status called = v1::AdminService::NewStub(*channel)->Drain(&call, {}, &response);
  if (!called.ok()) return CallFailed(called, context);
  console.out << context.connection.server << " finishes what runs, and exits\n";
  return kExitOk;
}

}  // namespace spillway::client
