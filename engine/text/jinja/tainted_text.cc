#include "engine/text/jinja/tainted_text.h"

#include <algorithm>

#include "base/check.h"

namespace spillway::text::jinja {
namespace {

// The run that holds byte `at`.
auto RunOf(const std::vector<TaintedText::Run>& runs, size_t at) {
  return std::upper_bound(runs.begin(), runs.end(), at,
                          [](size_t byte, const TaintedText::Run& run) { return byte < run.end; });
}

}  // namespace

void TaintedText::Append(absl::string_view bytes, Origin origin) {
  if (bytes.empty()) return;
  bytes_.append(bytes.data(), bytes.size());
  if (!runs_.empty() && runs_.back().origin == origin) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), origin});
  }
}

void TaintedText::Append(const TaintedText& other, size_t begin, size_t count) {
  SPILLWAY_DCHECK(begin + count <= other.size() && this != &other);
  const absl::string_view bytes = other.bytes_;
  const size_t end = begin + count;
  for (auto run = RunOf(other.runs_, begin); begin < end; ++run) {
    const size_t stop = std::min(run->end, end);
    Append(bytes.substr(begin, stop - begin), run->origin);
    begin = stop;
  }
}

TaintedText TaintedText::Substr(size_t begin, size_t count) const {
  TaintedText part;
  part.Append(*this, begin, count);
  return part;
}

Origin TaintedText::OriginAt(size_t at) const {
  SPILLWAY_DCHECK(at < size());
  return RunOf(runs_, at)->origin;
}

}  // namespace spillway::text::jinja
