#include "server/text_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/reason.h"

namespace spillway::server {

TextPool::TextPool(const TextPoolOptions& options) : options_(options) {
  for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { Work(); });
}

TextPool::~TextPool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status TextPool::Submit(int64_t bytes, std::function<void()> job) {
  {
    MutexLock lock(mutex_);
    if (jobs_ >= options_.max_jobs) {
      return MakeError(Reason::kTokenizerBusy, absl::StrCat(jobs_, " requests are being tokenised"),
                       {{"limit", absl::StrCat(options_.max_jobs)}, {"value", absl::StrCat(jobs_)}});
    }
    if (jobs_ > 0 && bytes_ + bytes > options_.max_bytes) {
      return MakeError(
          Reason::kTokenizerBusy, absl::StrCat(bytes_, " bytes of text are being tokenised"),
          {{"limit", absl::StrCat(options_.max_bytes)}, {"value", absl::StrCat(bytes_ + bytes)}});
    }
    ++jobs_;
    bytes_ += bytes;
    waiting_.push_back({bytes, std::move(job)});
  }
  changed_.NotifyOne();
  return absl::OkStatus();
}

void TextPool::Work() {
  while (true) {
    Job job;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stopping_) changed_.Wait(mutex_);
      if (waiting_.empty()) return;
      job = std::move(waiting_.front());
      waiting_.pop_front();
    }
    job.run();
    job.run = nullptr;  // what it holds goes before its share of the bounds is free again
    MutexLock lock(mutex_);
    --jobs_;
    bytes_ -= job.bytes;
  }
}

}  // namespace spillway::server
