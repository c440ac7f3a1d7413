// Ends a text at the first of several stop strings, while the text is still being generated. Text that could
// be the beginning of a stop string is held back, so that no part of one is ever shown.
//
// The first stop string to be completed wins; of several completed by the same byte, the longest. Thread-
// compatible; one per sequence. Work per byte is bounded by the number of stop strings.
#ifndef SPILLWAY_ENGINE_TEXT_STOP_MATCHER_H_
#define SPILLWAY_ENGINE_TEXT_STOP_MATCHER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway::text {

class StopMatcher {
 public:
  static constexpr int kMaxStopStrings = 32;
  static constexpr int kMaxStopStringBytes = 1024;

  // Matches nothing: everything is released at once.
  StopMatcher() = default;

  // Refuses empty, overlong, too many and non-UTF-8 strings (InvalidArgument, naming the index).
  static absl::StatusOr<StopMatcher> Create(std::vector<std::string> stop_strings);

  struct Result {
    std::string text;         // may be shown now; whole UTF-8
    std::optional<int> stop;  // index of the stop string that was completed; the text ends before it
  };

  // REQUIRES: `text` is whole UTF-8; no stop string was completed before.
  Result Append(absl::string_view text);

  // The end of the sequence without a stop string: what was held back.
  std::string Flush();

  bool stopped() const { return stopped_; }
  const std::vector<std::string>& stop_strings() const { return stop_strings_; }

 private:
  std::vector<std::string> stop_strings_;
  std::vector<std::vector<int32_t>> borders_;  // [string][bytes]: Knuth-Morris-Pratt failure function
  std::vector<int32_t> matched_bytes_;  // [string]: length of its longest prefix that the text ends with
  std::string held_;                    // the end of the text that was not released
  bool stopped_ = false;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_STOP_MATCHER_H_
