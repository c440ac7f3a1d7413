#include "server/unread_answers.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/reason.h"

namespace spillway::server {

absl::Status UnreadAnswers::Begin(const std::string& caller, int64_t bytes) {
  MutexLock lock(mutex_);
  Unread& unread = callers_[caller];
  if (unread.answers > 0 && (unread.bytes + bytes > limits_.caller_bytes || bytes_ + bytes > limits_.bytes)) {
    return MakeError(Reason::kAnswersUnread,
                     absl::StrCat("the answer has ", bytes, " bytes, and ", unread.bytes,
                                  " of earlier ones are not read yet"),
                     {{"limit", absl::StrCat(limits_.caller_bytes)}, {"value", absl::StrCat(unread.bytes)}});
  }
  ++unread.answers;
  unread.bytes += bytes;
  bytes_ += bytes;
  return absl::OkStatus();
}

void UnreadAnswers::End(const std::string& caller, int64_t bytes) {
  MutexLock lock(mutex_);
  const auto found = callers_.find(caller);
  SPILLWAY_CHECK(found != callers_.end());
  bytes_ -= bytes;
  found->second.bytes -= bytes;
  if (--found->second.answers == 0) callers_.erase(found);
}

int64_t UnreadAnswers::bytes() {
  MutexLock lock(mutex_);
  return bytes_;
}

}  // namespace spillway::server
