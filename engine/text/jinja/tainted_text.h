// A string that remembers, byte by byte, who wrote it: the template or a message. Every operation keeps the
// origin with the bytes, so that after any amount of trimming, splitting and joining it is still known which
// text may become special tokens. Thread-compatible value.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_TAINTED_TEXT_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_TAINTED_TEXT_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace spillway::text::jinja {

enum class Origin : uint8_t { kTemplate, kContent };

class TaintedText {
 public:
  // All bytes before `end`, from the end of the run before, have this origin.
  struct Run {
    size_t end;
    Origin origin;
  };

  TaintedText() = default;
  TaintedText(absl::string_view bytes, Origin origin) { Append(bytes, origin); }

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  const std::vector<Run>& runs() const {
    return runs_;
  }  // neighbours differ in origin; the last ends at size()

  void Append(absl::string_view bytes, Origin origin);
  void Append(const TaintedText& other) { Append(other, 0, other.size()); }
  // Appends other[begin, begin + count).
  void Append(const TaintedText& other, size_t begin, size_t count);

  TaintedText Substr(size_t begin, size_t count) const;
  // REQUIRES: at < size().
  Origin OriginAt(size_t at) const;

 private:
  std::string bytes_;
  std::vector<Run> runs_;
};

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_TAINTED_TEXT_H_
