// The commands of `spillway`, one source file each. A command parses its own arguments, talks to one daemon
// and returns the exit code; everything it prints goes through the console.
#ifndef SPILLWAY_CLIENT_COMMANDS_H_
#define SPILLWAY_CLIENT_COMMANDS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "client/connection.h"
#include "client/console.h"
#include "client/flags.h"
#include "grpcpp/support/status.h"

namespace spillway::client {

struct CommandContext {
  ConnectionOptions connection;
  Console& console;
  ActiveCall& active;
};

ExitCode RunComplete(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunChat(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunTokenize(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunDetokenize(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunStatus(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunPlan(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunProfile(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunTrace(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunDrain(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunToken(absl::Span<const std::string> args, CommandContext& context);
ExitCode RunModels(absl::Span<const std::string> args, CommandContext& context);

// --- What the commands share.

// "spillway: ..." and where to read on. Returns kExitUsage.
ExitCode UsageError(absl::string_view command, absl::string_view message, Console& console);
// Prints why the call failed; kExitInterrupted where Ctrl-C ended it, else kExitFailed.
ExitCode CallFailed(const grpc::Status& status, const CommandContext& context);
// "spillway: ..."; kExitFailed.
ExitCode Failed(absl::string_view message, Console& console);

// The text of an argument, where "-" means all of standard input less one final newline. InvalidArgument when
// it is not UTF-8.
absl::StatusOr<std::string> TextOfArgument(const std::string& argument, Console& console);

// Calls that compute nothing long get this deadline unless --timeout says otherwise.
constexpr int64_t kShortCallTimeoutMs = 15'000;

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_COMMANDS_H_
