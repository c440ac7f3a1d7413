// GatedExecutor: an executor behind a gate. Closed, visits wait: so a test decides how far a generation gets
// while it looks at the server, without sleeping.
#ifndef SPILLWAY_TESTS_SERVER_GATED_EXECUTOR_H_
#define SPILLWAY_TESTS_SERVER_GATED_EXECUTOR_H_

#include <atomic>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "engine/exec/executor.h"

namespace spillway::server {

// The gate is thread-safe; the rest belongs to the step thread, as with every executor.
class GatedExecutor final : public exec::Executor {
 public:
  // `executor` must outlive this.
  explicit GatedExecutor(exec::Executor& executor) : executor_(executor) {}

  void Close() {
    MutexLock lock(mutex_);
    open_ = false;
  }
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  // Every visit from now on fails, as after a device's error.
  void FailVisits() { failing_.store(true); }
  // The first draw of every batch from now on gives no token, as where logits are not numbers.
  void SpoilDraws() { spoiling_.store(true); }

  absl::StatusOr<std::unique_ptr<exec::WorkItem>> CreateWorkItem(const exec::ItemLimits& limits) override {
    return executor_.CreateWorkItem(limits);
  }
  int32_t chunk_rows() const override { return executor_.chunk_rows(); }
  int32_t n_layers() const override { return executor_.n_layers(); }
  int32_t vocab_size() const override { return executor_.vocab_size(); }
  void Begin(exec::WorkItem& item, exec::Phase phase, absl::Span<const exec::Segment> segments,
             const exec::SplitPlan& plan) override {
    executor_.Begin(item, phase, segments, plan);
  }
  absl::Status Visit(exec::WorkItem& item) override {
    {
      MutexLock lock(mutex_);
      while (!open_) changed_.Wait(mutex_);
    }
    if (failing_.load()) return absl::InternalError("the device fell off the bus");
    return executor_.Visit(item);
  }
  absl::StatusOr<exec::StepResult> Finish(exec::WorkItem& item) override {
    absl::StatusOr<exec::StepResult> result = executor_.Finish(item);
    if (!spoiling_.load() || !result.ok() || result->samples.empty()) return result;
    spoilt_.assign(result->samples.begin(), result->samples.end());
    spoilt_[0].token = -1;
    result->samples = spoilt_;
    return result;
  }
  void Abandon(exec::WorkItem& item) override { executor_.Abandon(item); }
  absl::Span<const float> LogitsOf(const exec::WorkItem& item, int32_t segment, int32_t row) const override {
    return executor_.LogitsOf(item, segment, row);
  }

 private:
  exec::Executor& executor_;
  std::atomic<bool> failing_{false};
  std::atomic<bool> spoiling_{false};
  std::vector<device::SampleResult> spoilt_;  // of the last result
  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
};

}  // namespace spillway::server

#endif  // SPILLWAY_TESTS_SERVER_GATED_EXECUTOR_H_
