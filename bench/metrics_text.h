// A scrape in the Prometheus text format, as far as a benchmark reads it.
#ifndef SPILLWAY_BENCH_METRICS_TEXT_H_
#define SPILLWAY_BENCH_METRICS_TEXT_H_

#include <map>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace spillway::bench {

class MetricsText {
 public:
  // Lines that are not samples are passed over.
  static MetricsText Parse(absl::string_view text);

  // A sample by its name with its labels as they are written: `spillway_kv_blocks{state="free"}`.
  std::optional<double> Find(absl::string_view sample) const;
  // The sum over all label values of a name.
  double Sum(absl::string_view name) const;
  bool empty() const { return samples_.empty(); }

 private:
  std::map<std::string, double, std::less<>> samples_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_METRICS_TEXT_H_
