// The step thread and everybody else: submitters, readers, cancellers, drain and stop. Clean under
// ThreadSanitizer; waits are for events, never for time to pass.
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/scheduler/harness.h"

namespace spillway::scheduler {
namespace {

// Shared by a call and its stream: the step thread may still be about to wake a call that has read its end
// and is gone.
class WakeUp {
 public:
  void Notify() {
    std::lock_guard<std::mutex> lock(mutex_);
    ready_ = true;
    came_.notify_one();
  }
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    came_.wait(lock, [this] { return ready_; });
    ready_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  bool ready_ = false;
};

// A call that blocks until its stream has something.
class BlockingCall {
 public:
  explicit BlockingCall(int64_t max_bytes = TokenStream::kMaxWaitingBytes)
      : stream_(std::make_shared<TokenStream>(
            64, [wake_up = wake_up_] { wake_up->Notify(); }, max_bytes)) {}

  const std::shared_ptr<TokenStream>& stream() { return stream_; }
  // Waits for events and takes them; false at the end.
  bool Next(std::vector<Event>* events) {
    if (ended_) return false;
    wake_up_->Wait();
    ended_ = stream_->Take(events, &status_);
    return !ended_;
  }
  absl::Status ReadAll(std::vector<text::TokenId>* tokens) {
    std::vector<Event> events;
    while (Next(&events)) {
    }
    for (const Event& event : events) {
      if (const auto* delta = std::get_if<DeltaEvent>(&event)) {
        tokens->insert(tokens->end(), delta->tokens.begin(), delta->tokens.end());
      }
    }
    return std::move(status_);
  }

 private:
  const std::shared_ptr<WakeUp> wake_up_ = std::make_shared<WakeUp>();
  bool ended_ = false;
  absl::Status status_;
  std::shared_ptr<TokenStream> stream_;
};

HarnessOptions Machine() {
  HarnessOptions options;
  options.n_blocks = 60;
  options.scheduler.max_queue = 8;
  return options;
}

// The harness's clock moves with the executor alone; a test of timers wants the machine's.
std::unique_ptr<Scheduler> OnRealClock(Harness& harness, const SchedulerOptions& options) {
  return Scheduler::Create({harness.executor, harness.blocks, harness.geometry(), TestTokenizer(),
                            Clock::Real(), harness.observer},
                           options)
      .value();
}

TEST(SchedulerThreadsTest, ManySubmittersEachGetTheirOwnTokens) {
  Harness harness(Machine());
  harness.scheduler->Start();
  constexpr int kThreads = 4;
  constexpr int kRequests = 40;
  std::vector<int> well(kThreads, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int r = 0; r < kRequests; ++r) {
        Request request = MakeRequest(Prompt(1 + static_cast<int32_t>(random() % 40), random() % 8), 30);
        const Client::Choice expected = ExpectedChoice(request, 0, harness.options.executor);
        const bool cancels = random() % 4 == 0;
        // Small streams: the sequence pauses and resumes as this thread reads.
        BlockingCall call(random() % 2 == 0 ? 16 : TokenStream::kMaxWaitingBytes);
        if (const absl::Status status = harness.scheduler->Submit(request, call.stream()); !status.ok()) {
          EXPECT_EQ(ReasonOf(status), Reason::kQueueFull);
          EXPECT_GT(harness.scheduler->retry_after_ms(), 0);
          continue;
        }
        std::vector<Event> events;
        if (cancels && call.Next(&events)) call.stream()->Cancel();
        std::vector<text::TokenId> tokens;
        for (const Event& event : events) {
          if (const auto* delta = std::get_if<DeltaEvent>(&event)) tokens = delta->tokens;
        }
        const absl::Status status = call.ReadAll(&tokens);
        if (status.ok()) {
          EXPECT_EQ(tokens, expected.tokens);
          ++well[static_cast<size_t>(t)];
        } else {
          EXPECT_TRUE(cancels);
          EXPECT_EQ(ReasonOf(status), Reason::kCancelled);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  harness.scheduler->Drain(60'000);
  EXPECT_EQ(harness.blocks_in_use(), 0);
  // The last request was over before the step thread says that there is nothing more.
  for (int i = 0; i < 10'000 && harness.scheduler->Snapshot().has_work; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_FALSE(harness.scheduler->Snapshot().has_work);
  harness.scheduler->Stop();
  for (const int n : well) EXPECT_GT(n, 0);
}

TEST(SchedulerThreadsTest, SnapshotsMayBeTakenAtAnyTime) {
  Harness harness(Machine());
  harness.scheduler->Start();
  BlockingCall call;
  std::thread watcher([&] {
    int64_t visits = 0;
    while (visits < 50) {
      const SchedulerSnapshot snapshot = harness.scheduler->Snapshot();
      EXPECT_GE(snapshot.visits, visits);
      visits = snapshot.visits;
    }
  });
  ASSERT_TRUE(harness.scheduler->Submit(MakeRequest(Prompt(60), 100), call.stream()).ok());
  std::vector<text::TokenId> tokens;
  EXPECT_TRUE(call.ReadAll(&tokens).ok());
  watcher.join();
  EXPECT_EQ(tokens.size(), 100u);
}

TEST(SchedulerThreadsTest, StopEndsWhatRunsAndWaits) {
  HarnessOptions options = Machine();
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  harness.scheduler->Start();
  BlockingCall running(/*max_bytes=*/16), waiting;
  ASSERT_TRUE(harness.scheduler->Submit(MakeRequest(Prompt(10), 200), running.stream()).ok());
  ASSERT_TRUE(harness.scheduler->Submit(MakeRequest(Prompt(10), 200), waiting.stream()).ok());
  std::vector<Event> events;
  EXPECT_TRUE(running.Next(&events));
  harness.scheduler->Stop();
  std::vector<text::TokenId> tokens;
  EXPECT_EQ(ReasonOf(running.ReadAll(&tokens)), Reason::kDraining);
  EXPECT_EQ(ReasonOf(waiting.ReadAll(&tokens)), Reason::kDraining);
  EXPECT_EQ(harness.blocks_in_use(), 0);
  BlockingCall late;
  EXPECT_EQ(ReasonOf(harness.scheduler->Submit(MakeRequest(Prompt(10), 2), late.stream())),
            Reason::kDraining);
  harness.scheduler->Stop();  // again, harmless
}

TEST(SchedulerThreadsTest, DrainEndsWhoeverDoesNotFinishInTime) {
  Harness harness(Machine());
  harness.scheduler->Start();
  BlockingCall never_read(/*max_bytes=*/16);
  ASSERT_TRUE(harness.scheduler->Submit(MakeRequest(Prompt(10), 200), never_read.stream()).ok());
  harness.scheduler->Drain(/*timeout_ms=*/1);
  std::vector<text::TokenId> tokens;
  EXPECT_EQ(ReasonOf(never_read.ReadAll(&tokens)), Reason::kDraining);
  EXPECT_EQ(harness.blocks_in_use(), 0);
}

TEST(SchedulerThreadsTest, TimersFireWhileNothingRuns) {
  Harness harness(Machine());
  SchedulerOptions options = Machine().scheduler;
  options.max_sequences = 1;
  options.slow_reader_timeout_ms = 20;
  auto scheduler = OnRealClock(harness, options);
  scheduler->Start();
  // The first is never read until it has ended; the second waits behind it with a deadline.
  BlockingCall slow(/*max_bytes=*/16), waiting;
  ASSERT_TRUE(scheduler->Submit(MakeRequest(Prompt(10), 200), slow.stream()).ok());
  Request request = MakeRequest(Prompt(10), 400);
  request.arrival_ns = Clock::Real().NowNs();
  request.deadline_ns = request.arrival_ns + 5 * kNsPerMs;
  std::vector<text::TokenId> tokens;
  if (scheduler->Submit(request, waiting.stream()).ok()) {
    EXPECT_EQ(ReasonOf(waiting.ReadAll(&tokens)), Reason::kDeadlineExceeded);
  }
  scheduler->Drain(60'000);
  EXPECT_EQ(ReasonOf(slow.ReadAll(&tokens)), Reason::kSlowReader);
  scheduler->Stop();
}

TEST(SchedulerThreadsTest, FailedEngineReachesEveryCall) {
  Harness harness(Machine());
  harness.executor.FailAfter(20);
  harness.scheduler->Start();
  BlockingCall calls[3];
  int accepted = 0;
  for (BlockingCall& call : calls) {
    const absl::Status status = harness.scheduler->Submit(MakeRequest(Prompt(30), 100), call.stream());
    if (!status.ok()) {
      EXPECT_EQ(ReasonOf(status), Reason::kEngineFailed);
      continue;
    }
    ++accepted;
  }
  for (int i = 0; i < accepted; ++i) {
    std::vector<text::TokenId> tokens;
    EXPECT_EQ(ReasonOf(calls[i].ReadAll(&tokens)), Reason::kEngineFailed);
  }
}

}  // namespace
}  // namespace spillway::scheduler
