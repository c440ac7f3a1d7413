#include "bench/command_line.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace spillway::bench {
namespace {

// Whether the report could be written to `path` now, without making the file.
absl::Status CheckWritable(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    return absl::InvalidArgumentError(absl::StrCat(path, " is a folder"));
  if (access(path.c_str(), W_OK) == 0) return absl::OkStatus();
  int why = errno;
  if (why == ENOENT) {
    const std::string folder = std::filesystem::path(path).parent_path();
    if (access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
    why = errno;
  }
  return absl::InvalidArgumentError(absl::StrCat(path, " cannot be written: ", std::strerror(why)));
}

}  // namespace

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
  // Known before anything is measured: a run can take hours.
  const auto set = [path](absl::string_view text) {
    *path = std::string(text);
    return path->empty() || *path == "-" ? absl::OkStatus() : CheckWritable(*path);
  };
  flags.AddSetter("json", "FILE", "The report as JSON; - is stdout, and the table goes to stderr.", set);
}

client::ExitCode BenchFailed(absl::string_view message, client::Console& console) {
  console.err << "spillway-bench: " << message << "\n";
  return client::kExitFailed;
}

}  // namespace spillway::bench
