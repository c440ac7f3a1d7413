// StreamChecker: holds a stream of events to its contract (started first; every index finished once, and
// silent afterwards; usage once and last, and in agreement with what was received). The client and the load
// generator both count on it rather than on the daemon's word.
//
// A value; used by one thread.
#ifndef SPILLWAY_CLIENT_STREAM_CHECKER_H_
#define SPILLWAY_CLIENT_STREAM_CHECKER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::client {

class StreamChecker {
 public:
  // `choices`: how many the request asked for.
  explicit StreamChecker(int32_t choices = 1) : finished_(static_cast<size_t>(choices), false) {}

  // Internal, naming what broke the contract. Events of a kind unknown to this client pass.
  absl::Status OnEvent(const v1::StreamEvent& event);
  // Of a stream that ended OK: nothing is missing.
  absl::Status OnEnd() const;

  bool started() const { return started_; }
  bool complete() const { return usage_seen_; }
  int64_t generated_tokens() const { return generated_tokens_; }

 private:
  absl::Status OnDelta(const v1::Delta& delta);
  absl::Status OnFinished(const v1::Finished& finished);
  absl::Status OnUsage(const v1::Usage& usage);

  bool started_ = false;
  bool usage_seen_ = false;
  int32_t prompt_tokens_ = 0;
  int64_t generated_tokens_ = 0;
  int32_t stop_tokens_ = 0;     // choices that an end token finished
  std::vector<bool> finished_;  // by index
};

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_STREAM_CHECKER_H_
