#include "bench/metrics_text.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace spillway::bench {

MetricsText MetricsText::Parse(absl::string_view text) {
  MetricsText metrics;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    if (line[0] == '#') continue;
    // Label values may hold spaces: the value stands after the closing brace, or after the name.
    const size_t brace = line.rfind('}');
    const size_t space = line.find(' ', brace == absl::string_view::npos ? 0 : brace);
    if (space == absl::string_view::npos) continue;
    const std::pair<absl::string_view, absl::string_view> value_and_time =
        absl::StrSplit(line.substr(space + 1), absl::MaxSplits(' ', 1));
    double value = 0;
    if (!absl::SimpleAtod(value_and_time.first, &value)) continue;
    metrics.samples_[std::string(line.substr(0, space))] = value;
  }
  return metrics;
}

std::optional<double> MetricsText::Find(absl::string_view sample) const {
  const auto found = samples_.find(std::string(sample));
  if (found == samples_.end()) return std::nullopt;
  return found->second;
}

double MetricsText::Sum(absl::string_view name) const {
  const std::string labelled = absl::StrCat(name, "{");
  double sum = 0;
  for (const auto& [sample, value] : samples_) {
    if (sample == name || absl::StartsWith(sample, labelled)) sum += value;
  }
  return sum;
}

}  // namespace spillway::bench
