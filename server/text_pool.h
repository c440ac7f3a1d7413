// A few threads for work on requests that is too long for a gRPC thread: parsing, rendering and tokenising
// long text, and for serialising long answers (which count as jobs alone). Bounded by jobs and by bytes; what
// does not fit is refused at once. Thread-safe.
#ifndef SPILLWAY_SERVER_TEXT_POOL_H_
#define SPILLWAY_SERVER_TEXT_POOL_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace spillway::server {

struct TextPoolOptions {
  int threads = 2;
  // Waiting and running together.
  int64_t max_jobs = 256;
  int64_t max_bytes = 64 << 20;
};

class TextPool {
 public:
  explicit TextPool(const TextPoolOptions& options);
  // Runs what waits, then joins.
  ~TextPool();
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  // kTokenizerBusy when the pool is full; one job is taken whatever its size.
  absl::Status Submit(int64_t bytes, std::function<void()> job);

 private:
  struct Job {
    int64_t bytes;
    std::function<void()> run;
  };

  void Work();

  const TextPoolOptions options_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Job> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t jobs_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TEXT_POOL_H_
