#include "server/call_traffic.h"

#include <algorithm>

#include "base/bytes.h"

namespace spillway::server {
namespace {

// A connection's preface and TLS handshake take a few KiB, a call's headers 8 at most.
constexpr int64_t kBeforeFirstCallBytes = 64 * kKiB;
constexpr int64_t kBeforeFirstCallMostBytes = kMiB;
constexpr int64_t kBetweenStepsBytes = 256 * kKiB;
// Readers of streams open windows and answer pings, a fraction of what they are sent; calls of methods that
// nobody serves get a short answer each.
constexpr int64_t kBytesForEachSent = 8;
// Where that would be without bound, so much, and a little more each second: a stream may last for days.
constexpr int64_t kMostBytes = 4 * kMiB;
constexpr double kMoreBytesPerS = 1024;
// Messages of the largest size that come side by side, with no other step in between.
constexpr int64_t kMessagesMost = 4;
// For how long the threads that begin calls may be behind those that read.
constexpr double kPatienceS = 1;

}  // namespace

void CallTraffic::Open(const std::string& peer) {
  MutexLock lock(mutex_);
  accounts_[peer] = {};
}

void CallTraffic::Forget(const std::string& peer) {
  MutexLock lock(mutex_);
  accounts_.erase(peer);
}

void CallTraffic::OnReceiving(const std::string& peer) { Step(peer, 1); }

void CallTraffic::OnReceived(const std::string& peer) { Step(peer, -1); }

void CallTraffic::OnRefused(const std::string& peer) { Step(peer, 0); }

void CallTraffic::Step(const std::string& peer, int64_t receiving) {
  MutexLock lock(mutex_);
  const auto found = accounts_.find(peer);
  if (found == accounts_.end()) return;
  ++found->second.steps;
  found->second.receiving += receiving;
}

CallTraffic::Account CallTraffic::Of(const std::string& peer) const {
  MutexLock lock(mutex_);
  const auto found = accounts_.find(peer);
  return found == accounts_.end() ? Account() : found->second;
}

bool ByteAllowance::Allows(const SocketBytes& bytes, const CallTraffic::Account& account, double now_s) {
  if (account.steps != steps_) {
    steps_ = account.steps;
    step_s_ = now_s;
    at_step_ = bytes;
    over_since_s_.reset();
  }
  const int64_t unaccounted = bytes.received - at_step_.received;
  const int64_t free_bytes = steps_ == 0 ? kBeforeFirstCallBytes : kBetweenStepsBytes;
  const int64_t for_sent = free_bytes + kBytesForEachSent * (bytes.sent - at_step_.sent);
  const int64_t most = steps_ == 0 ? kBeforeFirstCallMostBytes
                                   : kMostBytes + static_cast<int64_t>(kMoreBytesPerS * (now_s - step_s_));
  // Their bytes come in frames, with heads.
  const int64_t for_messages = std::clamp<int64_t>(account.receiving, 0, kMessagesMost) *
                               (message_bytes_max_ + message_bytes_max_ / 4);
  if (unaccounted > most + for_messages) return false;
  if (unaccounted <= for_sent + for_messages) {
    over_since_s_.reset();
    return true;
  }
  if (!over_since_s_.has_value()) over_since_s_ = now_s;
  return now_s - *over_since_s_ < kPatienceS;
}

}  // namespace spillway::server
