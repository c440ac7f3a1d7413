// How long each phase of a start took: for the log and spillway_start_seconds. Thread-compatible.
#ifndef SPILLWAY_SERVER_START_TIMES_H_
#define SPILLWAY_SERVER_START_TIMES_H_

#include <vector>

#include "absl/strings/string_view.h"
#include "base/clock.h"

namespace spillway::server {

class StartTimes {
 public:
  struct Phase {
    absl::string_view name;  // of kStartPhases
    double seconds = 0;
  };

  // The first phase begins now.
  explicit StartTimes(const Clock& clock) : clock_(clock), since_ns_(clock.NowNs()) {}

  // The phase that ends now, and the next one begins. REQUIRES: a literal.
  void Ended(absl::string_view phase) {
    const MonotonicNs now_ns = clock_.NowNs();
    phases_.push_back({phase, ToSeconds(now_ns - since_ns_)});
    since_ns_ = now_ns;
  }

  const std::vector<Phase>& phases() const { return phases_; }

 private:
  const Clock& clock_;
  MonotonicNs since_ns_;
  std::vector<Phase> phases_;
};

// In their order: the file is read and decoded; rates are read or measured; the host pool is mapped and
// pinned; the executor takes the device's memory; a token has gone through every lane.
inline constexpr const char* kStartPhases[] = {"model", "profile", "pool", "executor", "warm_up"};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_START_TIMES_H_
