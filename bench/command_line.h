// What every command of spillway-bench does with its arguments. Free functions.
#ifndef SPILLWAY_BENCH_COMMAND_LINE_H_
#define SPILLWAY_BENCH_COMMAND_LINE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "client/console.h"
#include "client/flags.h"

namespace spillway::bench {

// Parses `args` into the table's targets. An exit code ends the command: --help was asked for and printed, or
// something is wrong and was said. `complaint` looks at the values, after parsing: empty where they will do.
std::optional<client::ExitCode> ReadArgs(absl::string_view command, absl::string_view usage,
                                         const client::FlagTable& flags, absl::Span<const std::string> args,
                                         client::Console& console,
                                         absl::FunctionRef<std::string()> complaint);

// "1,4,16"; every number in low..high.
template <typename Number>
absl::Status ParseNumbers(absl::string_view text, Number low, Number high, std::vector<Number>* numbers) {
  numbers->clear();
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    double value = 0;
    const bool is_number = absl::SimpleAtod(part, &value) && value >= static_cast<double>(low) &&
                           value <= static_cast<double>(high);
    if (!is_number || static_cast<double>(static_cast<Number>(value)) != value) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", text, "\" is not a list such as 1,4,16 of numbers in ", low, "..", high));
    }
    numbers->push_back(static_cast<Number>(value));
  }
  return absl::OkStatus();
}

// A flag that is a list of numbers; what is given replaces the default.
template <typename Number>
void AddNumbers(client::FlagTable& flags, absl::string_view name, std::vector<Number>* numbers, Number low,
                Number high, absl::string_view help) {
  flags.AddSetter(name, "LIST", help,
                  [=](absl::string_view text) { return ParseNumbers(text, low, high, numbers); });
}

// "--json"; refuses a file that cannot be written.
void AddJson(client::FlagTable& flags, std::string* path);

// "spillway-bench: ..."; kExitFailed.
client::ExitCode BenchFailed(absl::string_view message, client::Console& console);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_COMMAND_LINE_H_
