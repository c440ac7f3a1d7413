// Keys that stand twice in one object of a JSON text, of which a parser keeps the last: whoever wrote the
// first believes in it.
#ifndef SPILLWAY_BASE_JSON_KEYS_H_
#define SPILLWAY_BASE_JSON_KEYS_H_

#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace spillway {

// Watches one parse: nlohmann::json::parse(begin, end, std::ref(keys)).
class JsonKeys {
 public:
  bool operator()(int /*depth*/, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event == Event::key && !open_.back().insert(value.get<std::string>()).second && repeated_.empty()) {
      repeated_ = value.get<std::string>();
    }
    return true;
  }
  // The first that was there twice, empty where none was.
  const std::string& repeated() const { return repeated_; }

 private:
  std::vector<std::set<std::string>> open_;  // of the objects that are being read
  std::string repeated_;
};

}  // namespace spillway

#endif  // SPILLWAY_BASE_JSON_KEYS_H_
