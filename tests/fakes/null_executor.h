// NullExecutor: computes nothing, at no cost and without allocating; every token drawn is the same. What
// remains is what the scheduler itself costs.
#ifndef SPILLWAY_TESTS_FAKES_NULL_EXECUTOR_H_
#define SPILLWAY_TESTS_FAKES_NULL_EXECUTOR_H_

#include <memory>
#include <vector>

#include "engine/exec/executor.h"

namespace spillway::fakes {

class NullExecutor : public exec::Executor {
 public:
  NullExecutor(int32_t n_layers, int32_t chunk_rows, text::TokenId token)
      : n_layers_(n_layers), chunk_rows_(chunk_rows), token_(token) {}

  absl::StatusOr<std::unique_ptr<exec::WorkItem>> CreateWorkItem(const exec::ItemLimits& limits) override {
    return std::make_unique<Item>(limits, token_);
  }
  int32_t chunk_rows() const override { return chunk_rows_; }
  int32_t n_layers() const override { return n_layers_; }
  int32_t vocab_size() const override { return token_ + 1; }

  void Begin(exec::WorkItem& item, exec::Phase phase, absl::Span<const exec::Segment> segments,
             const exec::SplitPlan&) override {
    static_cast<Item&>(item).Start(phase, segments, n_layers_, chunk_rows_);
  }
  absl::Status Visit(exec::WorkItem& item) override {
    static_cast<Item&>(item).CountVisit();
    return absl::OkStatus();
  }
  absl::StatusOr<exec::StepResult> Finish(exec::WorkItem& item) override {
    return static_cast<Item&>(item).Stop();
  }
  void Abandon(exec::WorkItem& item) override { static_cast<Item&>(item).Stop(); }
  absl::Span<const float> LogitsOf(const exec::WorkItem&, int32_t, int32_t) const override { return {}; }

 private:
  class Item : public exec::WorkItem {
   public:
    Item(const exec::ItemLimits& limits, text::TokenId token)
        : WorkItem(limits), results_(static_cast<size_t>(limits.max_outputs)) {
      for (device::SampleResult& result : results_) {
        result = {};
        result.token = token;
      }
    }
    void Start(exec::Phase phase, absl::Span<const exec::Segment> segments, int32_t n_layers,
               int32_t chunk_rows) {
      stats_ = {};
      stats_.phase = phase;
      n_samples_ = 0;
      for (const exec::Segment& segment : segments) {
        stats_.rows += static_cast<int32_t>(segment.tokens.size());
        n_samples_ += segment.output == exec::Output::kSample;
      }
      running_ = true;
      visits_done_ = 0;
      visits_total_ = stats_.visits = n_layers * ((stats_.rows + chunk_rows - 1) / chunk_rows);
    }
    void CountVisit() { ++visits_done_; }
    exec::StepResult Stop() {
      running_ = false;
      return {absl::MakeConstSpan(results_).first(n_samples_), stats_};
    }

   private:
    std::vector<device::SampleResult> results_;
    exec::StepStats stats_;
    size_t n_samples_ = 0;
  };

  const int32_t n_layers_;
  const int32_t chunk_rows_;
  const text::TokenId token_;
};

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_NULL_EXECUTOR_H_
