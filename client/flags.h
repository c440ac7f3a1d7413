// FlagTable: the flags of one command as a table, from which they are parsed and their help is printed.
//
//   FlagTable flags;
//   flags.Section("Sampling");
//   flags.Add("top_k", &top_k, "N", "Draw from the N most likely tokens only.");
//   auto args = flags.Parse(argv);
//
// Accepted: --name=value, --name value, --switch, --noswitch, --switch=false; `--` ends the flags; `-` and
// everything that does not start with a dash is positional. An unknown name is refused with the nearest known
// one. Of a flag given twice the last one counts, unless it is a list.
//
// Targets must outlive the table. Thread-compatible.
#ifndef SPILLWAY_CLIENT_FLAGS_H_
#define SPILLWAY_CLIENT_FLAGS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spillway::client {

// A length of time on the command line: "250ms", "30s", "5m", "1h"; a plain number is seconds. Not negative.
struct FlagDuration {
  int64_t ms = 0;
};

// Text to value; the error says what is wrong with the text, without the flag's name.
absl::Status ParseFlagValue(absl::string_view text, std::string* value);
absl::Status ParseFlagValue(absl::string_view text, bool* value);
absl::Status ParseFlagValue(absl::string_view text, int32_t* value);
absl::Status ParseFlagValue(absl::string_view text, int64_t* value);
absl::Status ParseFlagValue(absl::string_view text, uint64_t* value);
absl::Status ParseFlagValue(absl::string_view text, float* value);
absl::Status ParseFlagValue(absl::string_view text, double* value);
absl::Status ParseFlagValue(absl::string_view text, FlagDuration* value);

// Lists take a value each time the flag is given.
template <typename T>
absl::Status ParseFlagValue(absl::string_view text, std::vector<T>* list) {
  T value{};
  absl::Status status = ParseFlagValue(text, &value);
  if (status.ok()) list->push_back(std::move(value));
  return status;
}

template <typename T>
absl::Status ParseFlagValue(absl::string_view text, std::optional<T>* optional) {
  T value{};
  absl::Status status = ParseFlagValue(text, &value);
  if (status.ok()) *optional = std::move(value);
  return status;
}

struct ParsedArgs {
  std::vector<std::string> positional;
  bool help = false;  // --help or -h was given; the rest was still parsed up to the first error
};

class FlagTable {
 public:
  // Flags added from here on stand under this title in the help.
  void Section(absl::string_view title);

  // A flag that writes to `target`. `hint` names the value in the help.
  template <typename T>
  void Add(absl::string_view name, T* target, absl::string_view hint, absl::string_view help) {
    AddSetter(name, hint, help, [target](absl::string_view text) { return ParseFlagValue(text, target); });
  }
  // A switch: --name and --noname.
  void AddSwitch(absl::string_view name, bool* target, absl::string_view help);
  void AddSwitch(absl::string_view name, std::function<void(bool)> set, absl::string_view help);
  // A flag whose parsed value goes to a function, e.g. a protobuf setter.
  template <typename T>
  void AddCall(absl::string_view name, absl::string_view hint, absl::string_view help,
               std::function<void(T)> set) {
    AddSetter(name, hint, help, [set = std::move(set)](absl::string_view text) {
      T value{};
      absl::Status status = ParseFlagValue(text, &value);
      if (status.ok()) set(std::move(value));
      return status;
    });
  }
  // One of `choices`, by name; `set` gets the index.
  void AddChoice(absl::string_view name, std::vector<std::string> choices, absl::string_view help,
                 std::function<void(int)> set);
  // The general form: `set` sees the text.
  void AddSetter(absl::string_view name, absl::string_view hint, absl::string_view help,
                 std::function<absl::Status(absl::string_view)> set);

  // InvalidArgument with one line that names the flag and what was wrong.
  absl::StatusOr<ParsedArgs> Parse(absl::Span<const std::string> args) const;
  // The same, but stops at the first positional argument: it and everything after it are returned as they
  // are.
  absl::StatusOr<ParsedArgs> ParseLeading(absl::Span<const std::string> args) const;

  // Every flag with its help, wrapped at 100 columns, by section.
  std::string Help() const;

 private:
  struct Flag {
    std::string name;
    std::string hint;
    std::string help;
    int section = -1;
    bool is_switch = false;
    std::function<absl::Status(absl::string_view)> set;
  };

  const Flag* Find(absl::string_view name) const;
  absl::StatusOr<ParsedArgs> ParseArgs(absl::Span<const std::string> args, bool stop_at_positional) const;
  // Parses the flag at args[*at], its value included, and moves *at to the last argument it used.
  absl::Status ParseOne(absl::Span<const std::string> args, size_t* at) const;

  std::vector<std::string> sections_;
  std::vector<Flag> flags_;
};

// The candidate with the smallest edit distance to `word`, or empty where none is near enough to be meant.
std::string NearestName(absl::string_view word, absl::Span<const std::string> candidates);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_FLAGS_H_
