#include "engine/text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/text/utf8.h"

namespace spillway::text {

absl::StatusOr<StopMatcher> StopMatcher::Create(std::vector<std::string> stop_strings) {
  if (stop_strings.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat(stop_strings.size(), " stop strings; at most ", kMaxStopStrings, " are allowed"));
  }
  StopMatcher matcher;
  for (size_t s = 0; s < stop_strings.size(); ++s) {
    const std::string& text = stop_strings[s];
    if (text.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("stop string ", s, " is empty"));
    }
    if (text.size() > kMaxStopStringBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "stop string ", s, " has ", text.size(), " bytes; at most ", kMaxStopStringBytes, " are allowed"));
    }
    if (auto offset = FindInvalidUtf8(text)) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop string ", s, " is not valid UTF-8 at byte ", *offset));
    }
    // borders[i]: length of the longest proper prefix of text[0..i] that is also its suffix.
    std::vector<int32_t> borders(text.size(), 0);
    int32_t length = 0;
    for (size_t i = 1; i < text.size(); ++i) {
      while (length > 0 && text[i] != text[length]) length = borders[length - 1];
      if (text[i] == text[length]) ++length;
      borders[i] = length;
    }
    matcher.borders_.push_back(std::move(borders));
  }
  matcher.matched_bytes_.assign(stop_strings.size(), 0);
  matcher.stop_strings_ = std::move(stop_strings);
  return matcher;
}

StopMatcher::Result StopMatcher::Append(absl::string_view text) {
  SPILLWAY_CHECK_MSG(!stopped_, "text after a stop string");
  Result result;
  if (stop_strings_.empty()) {
    result.text.assign(text.data(), text.size());
    return result;
  }
  const size_t held_bytes = held_.size();
  held_.append(text.data(), text.size());
  size_t longest_prefix = 0;
  for (size_t i = held_bytes; i < held_.size(); ++i) {
    const char byte = held_[i];
    longest_prefix = 0;
    for (size_t s = 0; s < stop_strings_.size(); ++s) {
      const std::string& stop = stop_strings_[s];
      int32_t matched = matched_bytes_[s];
      while (matched > 0 && byte != stop[matched]) matched = borders_[s][matched - 1];
      if (byte == stop[matched]) ++matched;
      matched_bytes_[s] = matched;
      longest_prefix = std::max(longest_prefix, static_cast<size_t>(matched));
      if (static_cast<size_t>(matched) == stop.size() &&
          (!result.stop || stop.size() > stop_strings_[*result.stop].size())) {
        result.stop = static_cast<int>(s);
      }
    }
    if (result.stop) {
      stopped_ = true;
      result.text = held_.substr(0, i + 1 - stop_strings_[*result.stop].size());
      held_.clear();
      return result;
    }
  }
  if (text.empty()) return result;
  // What is held begins with the first byte of a stop string, hence at a character.
  result.text = held_.substr(0, held_.size() - longest_prefix);
  held_.erase(0, held_.size() - longest_prefix);
  return result;
}

std::string StopMatcher::Flush() {
  std::string rest = std::move(held_);
  held_.clear();
  std::fill(matched_bytes_.begin(), matched_bytes_.end(), 0);
  return rest;
}

}  // namespace spillway::text
