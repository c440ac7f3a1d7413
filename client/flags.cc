#include "client/flags.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::client {
namespace {

constexpr size_t kHelpColumns = 100;
constexpr size_t kHelpIndent = 6;

absl::Status NotA(absl::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not ", what));
}

template <typename T>
absl::Status ParseInteger(absl::string_view text, T* value) {
  // SimpleAtoi also takes surrounding space, which on a command line is a quoting mistake.
  if (text.empty() || text.find_first_of(" \t\n") != absl::string_view::npos ||
      !absl::SimpleAtoi(text, value)) {
    return NotA(text, absl::StrCat("a whole number from ", std::numeric_limits<T>::min(), " to ",
                                   std::numeric_limits<T>::max()));
  }
  return absl::OkStatus();
}

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// Appends `text` word by word, wrapped at kHelpColumns, every line indented.
void AppendWrapped(absl::string_view text, std::string* out) {
  size_t column = 0;
  for (absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (column > 0 && column + 1 + word.size() > kHelpColumns) {
      out->push_back('\n');
      column = 0;
    }
    if (column == 0) {
      out->append(kHelpIndent, ' ');
      column = kHelpIndent;
    } else {
      out->push_back(' ');
      ++column;
    }
    absl::StrAppend(out, word);
    column += word.size();
  }
  out->push_back('\n');
}

}  // namespace

absl::Status ParseFlagValue(absl::string_view text, std::string* value) {
  *value = std::string(text);
  return absl::OkStatus();
}

absl::Status ParseFlagValue(absl::string_view text, bool* value) {
  if (!absl::SimpleAtob(text, value)) return NotA(text, "true or false");
  return absl::OkStatus();
}

absl::Status ParseFlagValue(absl::string_view text, int32_t* value) { return ParseInteger(text, value); }
absl::Status ParseFlagValue(absl::string_view text, int64_t* value) { return ParseInteger(text, value); }
absl::Status ParseFlagValue(absl::string_view text, uint64_t* value) { return ParseInteger(text, value); }

absl::Status ParseFlagValue(absl::string_view text, float* value) {
  if (!absl::SimpleAtof(text, value)) return NotA(text, "a number");
  return absl::OkStatus();
}

absl::Status ParseFlagValue(absl::string_view text, double* value) {
  if (!absl::SimpleAtod(text, value)) return NotA(text, "a number");
  return absl::OkStatus();
}

absl::Status ParseFlagValue(absl::string_view text, FlagDuration* value) {
  constexpr absl::string_view kWanted = "a length of time such as 250ms, 30s, 5m or 1h";
  absl::string_view number = text;
  double unit_ms = 1000;
  if (absl::ConsumeSuffix(&number, "ms")) {
    unit_ms = 1;
  } else if (absl::ConsumeSuffix(&number, "s")) {
    unit_ms = 1e3;
  } else if (absl::ConsumeSuffix(&number, "m")) {
    unit_ms = 60e3;
  } else if (absl::ConsumeSuffix(&number, "h")) {
    unit_ms = 3600e3;
  }
  double count = 0;
  // A thousand years bounds the product far below an overflow, and refuses "inf".
  if (!absl::SimpleAtod(number, &count) || !(count >= 0) || count * unit_ms > 3.2e13) {
    return NotA(text, kWanted);
  }
  value->ms = static_cast<int64_t>(std::llround(count * unit_ms));
  return absl::OkStatus();
}

void FlagTable::Section(absl::string_view title) { sections_.emplace_back(title); }

void FlagTable::AddSetter(absl::string_view name, absl::string_view hint, absl::string_view help,
                          std::function<absl::Status(absl::string_view)> set) {
  SPILLWAY_CHECK_MSG(Find(name) == nullptr, "a flag was added twice");
  flags_.push_back(Flag{std::string(name), std::string(hint), std::string(help),
                        static_cast<int>(sections_.size()) - 1, false, std::move(set)});
}

void FlagTable::AddSwitch(absl::string_view name, std::function<void(bool)> set, absl::string_view help) {
  AddSetter(name, "", help, [set = std::move(set)](absl::string_view text) {
    bool value = false;
    absl::Status status = ParseFlagValue(text, &value);
    if (status.ok()) set(value);
    return status;
  });
  flags_.back().is_switch = true;
}

void FlagTable::AddSwitch(absl::string_view name, bool* target, absl::string_view help) {
  AddSwitch(
      name, [target](bool value) { *target = value; }, help);
}

void FlagTable::AddChoice(absl::string_view name, std::vector<std::string> choices, absl::string_view help,
                          std::function<void(int)> set) {
  const std::string hint = absl::StrJoin(choices, "|");
  AddSetter(name, hint, help, [choices = std::move(choices), set = std::move(set)](absl::string_view text) {
    const auto found = std::find(choices.begin(), choices.end(), text);
    if (found == choices.end()) return NotA(text, absl::StrCat("one of ", absl::StrJoin(choices, ", ")));
    set(static_cast<int>(found - choices.begin()));
    return absl::OkStatus();
  });
}

const FlagTable::Flag* FlagTable::Find(absl::string_view name) const {
  const auto found =
      std::find_if(flags_.begin(), flags_.end(), [name](const Flag& flag) { return flag.name == name; });
  return found == flags_.end() ? nullptr : &*found;
}

absl::Status FlagTable::ParseOne(absl::Span<const std::string> args, size_t* at) const {
  absl::string_view rest = absl::StripPrefix(args[*at], "--");
  const size_t equals = rest.find('=');
  const absl::string_view name = rest.substr(0, equals);

  const Flag* flag = Find(name);
  bool negated = false;
  if (flag == nullptr) {
    if (absl::string_view base = name; absl::ConsumePrefix(&base, "no")) {
      flag = Find(base);
      if (flag != nullptr && !flag->is_switch) flag = nullptr;
      negated = flag != nullptr;
    }
  }
  if (flag == nullptr) {
    std::vector<std::string> names = {"help"};
    for (const Flag& known : flags_) names.push_back(known.name);
    const std::string nearest = NearestName(name, names);
    return absl::InvalidArgumentError(
        absl::StrCat("unknown flag --", name,
                     nearest.empty() ? "; see --help" : absl::StrCat("; did you mean --", nearest, "?")));
  }

  absl::string_view value;
  if (equals != absl::string_view::npos) {
    value = rest.substr(equals + 1);
    if (negated) return absl::InvalidArgumentError(absl::StrCat("--", name, " takes no value"));
  } else if (flag->is_switch) {
    value = negated ? "false" : "true";
  } else if (*at + 1 < args.size()) {
    value = args[++*at];
  } else {
    return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value: --", name, "=", flag->hint));
  }
  if (absl::Status status = flag->set(value); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", name, ": ", status.message()));
  }
  return absl::OkStatus();
}

absl::StatusOr<ParsedArgs> FlagTable::ParseArgs(absl::Span<const std::string> args,
                                                bool stop_at_positional) const {
  ParsedArgs parsed;
  for (size_t at = 0; at < args.size(); ++at) {
    const std::string& arg = args[at];
    const bool is_flag = arg.size() > 1 && arg[0] == '-';
    if (arg == "--" || (!is_flag && stop_at_positional)) {
      if (arg == "--") ++at;
      parsed.positional.insert(parsed.positional.end(), args.begin() + at, args.end());
      break;
    }
    if (!is_flag) {
      parsed.positional.push_back(arg);
    } else if (arg == "--help" || arg == "-h") {
      parsed.help = true;
    } else if (arg[1] != '-') {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown flag ", arg,
                       "; flags have two dashes, and `--` goes before text that begins with a dash"));
    } else {
      SPILLWAY_RETURN_IF_ERROR(ParseOne(args, &at));
    }
  }
  return parsed;
}

absl::StatusOr<ParsedArgs> FlagTable::Parse(absl::Span<const std::string> args) const {
  return ParseArgs(args, /*stop_at_positional=*/false);
}

absl::StatusOr<ParsedArgs> FlagTable::ParseLeading(absl::Span<const std::string> args) const {
  return ParseArgs(args, /*stop_at_positional=*/true);
}

std::string FlagTable::Help() const {
  std::string help;
  int section = -1;
  for (const Flag& flag : flags_) {
    if (flag.section != section) {
      section = flag.section;
      absl::StrAppend(&help, help.empty() ? "" : "\n", sections_[static_cast<size_t>(section)], ":\n");
    }
    absl::StrAppend(&help, "  --", flag.is_switch ? "[no]" : "", flag.name, flag.is_switch ? "" : "=",
                    flag.hint, "\n");
    AppendWrapped(flag.help, &help);
  }
  return help;
}

std::string NearestName(absl::string_view word, absl::Span<const std::string> candidates) {
  // People type dashes for underscores and any case; that alone is no distance.
  std::string normal(word);
  for (char& c : normal) c = c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::string nearest;
  size_t least = std::max<size_t>(1, normal.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(normal, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

}  // namespace spillway::client
