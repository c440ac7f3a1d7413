#include "bench/command_line.h"

namespace spillway::bench {

std::optional<client::ExitCode> ReadArgs(absl::string_view command, absl::string_view usage,
                                         const client::FlagTable& flags, absl::Span<const std::string> args,
                                         client::Console& console,
                                         absl::FunctionRef<std::string()> complaint) {
  const absl::StatusOr<client::ParsedArgs> parsed = flags.Parse(args);
  std::string wrong;
  if (!parsed.ok()) {
    wrong = std::string(parsed.status().message());
  } else if (parsed->help) {
    console.out << usage << flags.Help();
    return client::kExitOk;
  } else {
    wrong = parsed->positional.empty() ? complaint() : "no arguments are expected";
  }
  if (wrong.empty()) return std::nullopt;
  console.err << "spillway-bench: " << client::EscapeToOneLine(wrong) << "\n  remedy: see `spillway-bench "
              << command << " --help`\n";
  return client::kExitUsage;
}

void AddJson(client::FlagTable& flags, std::string* path) {
  flags.Add("json", path, "FILE", "The report as JSON; - is stdout, and the table goes to stderr.");
}

client::ExitCode BenchFailed(absl::string_view message, client::Console& console) {
  console.err << "spillway-bench: " << message << "\n";
  return client::kExitFailed;
}

}  // namespace spillway::bench
