// What a parser of JSON takes without a word, and its readers cannot: nesting as deep as a text is long (they
// go down by recursion, and their stack ends), and keys that stand twice in one object, of which the parser
// keeps the last: whoever wrote the first believes in it.
#ifndef SPILLWAY_BASE_JSON_WATCH_H_
#define SPILLWAY_BASE_JSON_WATCH_H_

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace spillway {

// Watches one parse: nlohmann::json::parse(begin, end, std::ref(watch)). Of a text that is too deep nothing
// below the limit is built, and what is built is worth nothing: ask problem() first.
class JsonWatch {
 public:
  explicit JsonWatch(int levels_max = 32) : levels_max_(levels_max) {}

  template <typename Json>  // nlohmann::json, or the one that keeps the order
  bool operator()(int depth, nlohmann::json::parse_event_t event, Json& value) {
    using Event = nlohmann::json::parse_event_t;
    // The parser goes on through the text, and tells no more of its ends.
    too_deep_ =
        too_deep_ || ((event == Event::object_start || event == Event::array_start) && depth >= levels_max_);
    if (too_deep_) return false;
    if (event == Event::object_start) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event == Event::key && !open_.back().insert(value.template get<std::string>()).second &&
        repeated_.empty()) {
      repeated_ = value.template get<std::string>();
    }
    return true;
  }

  bool too_deep() const { return too_deep_; }
  // The first key that was there twice, empty where none was.
  const std::string& repeated() const { return repeated_; }
  // Either, with the way out; empty where nothing is wrong.
  std::string problem() const {
    if (too_deep_) return absl::StrCat("nested deeper than ", levels_max_, " levels; correct it");
    if (repeated_.empty()) return "";
    return absl::StrCat("\"", repeated_, "\" is there twice in one object; remove one of them");
  }

 private:
  const int levels_max_;
  std::vector<std::set<std::string>> open_;  // of the objects that are being read
  std::string repeated_;
  bool too_deep_ = false;
};

}  // namespace spillway

#endif  // SPILLWAY_BASE_JSON_WATCH_H_
