// UnreadAnswers: the bytes of answers that are on their way, by who asked for them. A caller's place among
// its tenant's requests is free as soon as its answer is made, so that calls one after the other are not
// refused: without a bound of their bytes, one who never reads could have answers kept for as long as
// --slow_reader_timeout_ms, as many as are made in that time.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_UNREAD_ANSWERS_H_
#define SPILLWAY_SERVER_UNREAD_ANSWERS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "base/bytes.h"
#include "base/mutex.h"

namespace spillway::server {

class UnreadAnswers {
 public:
  struct Limits {
    int64_t caller_bytes = 32 * kMiB;
    int64_t bytes = 512 * kMiB;  // of all callers
  };

  explicit UnreadAnswers(const Limits& limits) : limits_(limits) {}

  // An answer of so many bytes is on its way to the caller. kAnswersUnread where it is beyond either limit,
  // and the caller has others unread; then there is no End.
  absl::Status Begin(const std::string& caller, int64_t bytes);
  // It was read, or given up.
  void End(const std::string& caller, int64_t bytes);

  int64_t bytes();

 private:
  struct Unread {
    int64_t answers = 0;
    int64_t bytes = 0;
  };

  const Limits limits_;
  Mutex mutex_;
  std::map<std::string, Unread> callers_ ABSL_GUARDED_BY(mutex_);  // that have any
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_UNREAD_ANSWERS_H_
