#include "base/clock.h"

#include <chrono>

namespace spillway {
namespace {

class SteadyClock : public Clock {
 public:
  MonotonicNs NowNs() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

}  // namespace

const Clock& Clock::Real() {
  static const SteadyClock clock;
  return clock;
}

}  // namespace spillway
