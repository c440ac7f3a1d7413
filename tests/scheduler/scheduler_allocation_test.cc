// Decoding allocates only what the events for the reader need: the ids of a delta, and text that does not fit
// into a string object.
#include <chrono>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/counted_allocations.h"
#include "tests/fakes/null_executor.h"
#include "tests/scheduler/harness.h"
#include "tests/scheduler/profiles.h"

namespace spillway::scheduler {
namespace {

struct CountTokens : Observer {
  void OnStep(const exec::StepStats&) override {}
  void OnFirstToken(double) override {}
  void OnScheduled(double) override {}
  void OnPrefilled(double, int32_t, int32_t) override {}
  void OnTokens(int32_t n, double) override { tokens += n; }
  void OnPreempted() override { ++preempted; }
  void OnFinished(const RequestRecord&) override {}
  void OnRejected(Reason) override {}

  int64_t tokens = 0;
  int64_t preempted = 0;
};

// Behind a link, with a batch shape whose plan is known after the first pass.
class SplittingNullExecutor final : public fakes::NullExecutor {
 public:
  using NullExecutor::NullExecutor;
  bool splits() const override { return true; }
  exec::BatchShape ShapeOf(exec::Phase phase, absl::Span<const exec::Segment> segments) override {
    exec::BatchShape shape;
    shape.phase = phase;
    shape.sequences = shape.new_tokens = shape.head_rows = static_cast<int32_t>(segments.size());
    shape.reads_tokens = shape.host_both_tokens = 100'000;
    return shape;
  }
};

TEST(AllocationTest, APlanThatIsKnownAllocatesNothing) {
  PlanSolver solver(MultiHeadProfile());
  PlannerOptions options;
  options.longest_wait = std::chrono::seconds(20);
  options.pool_bytes = 1e12;
  Planner planner(solver, options);
  exec::BatchShape shape;
  shape.sequences = shape.new_tokens = shape.head_rows = 16;
  shape.reads_tokens = shape.host_both_tokens = 100'000;
  exec::StepStats stats;
  stats.lanes[static_cast<size_t>(exec::Lane::kKvLoad)] = {1'000'000, 0, 25'000'000, 1};
  while (planner.targets().version == 0) planner.PlanFor(shape);  // nothing is being solved from here on

  fakes::CountedAllocations::Reset();
  exec::SplitPlan plan;
  for (int i = 0; i < 1000; ++i) {
    shape.host_both_tokens = 100'000 + i % 100;
    plan = planner.PlanFor(shape);
    planner.OnSchedule({});
    planner.OnStep(plan, stats);
  }
  EXPECT_EQ(fakes::CountedAllocations::Now().count, 0);
  EXPECT_NE(plan.solve_id, 0U);
}

void DecodeAndCount(exec::Executor& executor, Planner* planner) {
  constexpr int32_t kSequences = 16;
  kv::BlockStore blocks(4000);
  CountTokens observer;
  ManualClock clock;
  kv::Geometry geometry;
  geometry.block_tokens = 16;
  SchedulerOptions options;
  options.context_tokens = 4096;
  options.max_sequences = kSequences;
  auto scheduler =
      Scheduler::Create({executor, blocks, geometry, TestTokenizer(), clock, observer, planner}, options)
          .value();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (uint32_t i = 0; i < kSequences; ++i) {
    streams.push_back(std::make_shared<TokenStream>(64, [] {}));
    Request request = MakeRequest(Prompt(40, i), 2000);
    request.stop_strings = {"never"};
    request.deadline_ns = 1'000'000'000'000;
    ASSERT_TRUE(scheduler->Submit(std::move(request), streams.back()).ok());
  }
  while (observer.tokens < 10 * kSequences) scheduler->RunOnce();

  std::vector<Event> events;
  events.reserve(64);
  absl::Status status;
  int64_t allocations = 0;
  const int64_t tokens_before = observer.tokens;
  while (observer.tokens < tokens_before + 1000 * kSequences) {
    fakes::CountedAllocations::Reset();
    scheduler->RunOnce();
    allocations += fakes::CountedAllocations::Now().count;
    for (const auto& stream : streams) {
      events.clear();
      stream->Take(&events, &status);
    }
  }
  // One vector of ids each; the deque of waiting events takes a new node now and then.
  const double tokens = static_cast<double>(observer.tokens - tokens_before);
  EXPECT_LE(static_cast<double>(allocations) / tokens, 1.5);
  EXPECT_GE(static_cast<double>(allocations) / tokens, 1) << "the count counts";
}

// Allocations from when three decode, the third with few tokens to go, until it has gone. `waiting`: one
// waits for whom that is not room enough, even with the second sent away.
int64_t AllocationsUntilOneLeaves(bool waiting) {
  fakes::NullExecutor executor(/*n_layers=*/4, /*chunk_rows=*/64, kFirstLetter);
  kv::BlockStore blocks(40);
  CountTokens observer;
  ManualClock clock;
  kv::Geometry geometry;
  geometry.n_kv_heads = geometry.d_head = geometry.d = 1;
  geometry.block_tokens = 16;
  SchedulerOptions options;
  options.context_tokens = 600;
  options.max_sequences = 4;
  auto scheduler =
      Scheduler::Create({executor, blocks, geometry, TestTokenizer(), clock, observer, nullptr}, options)
          .value();
  std::vector<std::shared_ptr<TokenStream>> streams;
  const auto submit = [&](int32_t prompt_tokens, int32_t max_tokens, int32_t priority) {
    streams.push_back(std::make_shared<TokenStream>(64, [] {}));
    Request request = MakeRequest(Prompt(prompt_tokens, static_cast<uint32_t>(streams.size())), max_tokens);
    request.priority = priority;
    EXPECT_TRUE(scheduler->Submit(std::move(request), streams.back()).ok());
  };
  std::vector<Event> events;
  events.reserve(64);
  absl::Status status;
  const auto run_once = [&] {
    fakes::CountedAllocations::Reset();
    scheduler->RunOnce();
    const int64_t count = fakes::CountedAllocations::Now().count;
    for (const auto& stream : streams) {
      events.clear();
      stream->Take(&events, &status);
    }
    return count;
  };
  submit(320, 200, /*priority=*/1);
  submit(40, 200, /*priority=*/0);
  submit(40, 40, /*priority=*/0);
  while (observer.tokens < 3 * 10) run_once();
  if (waiting) submit(480, 10, /*priority=*/1);
  while (observer.tokens < 3 * 20) run_once();
  int64_t allocations = 0;
  while (observer.tokens < 3 * 40 + 2 * 10) allocations += run_once();
  EXPECT_EQ(observer.preempted, 0);
  EXPECT_EQ(scheduler->Snapshot().waiting_requests, waiting ? 1 : 0);
  return allocations;
}

TEST(AllocationTest, LookingForSomebodyToSendAwayAllocatesNothing) {
  EXPECT_EQ(AllocationsUntilOneLeaves(/*waiting=*/true), AllocationsUntilOneLeaves(/*waiting=*/false));
}

TEST(AllocationTest, DecodingAllocatesOnceATokenForItsEvent) {
  fakes::NullExecutor executor(/*n_layers=*/4, /*chunk_rows=*/64, kFirstLetter);
  DecodeAndCount(executor, nullptr);
}

TEST(AllocationTest, PlanningEveryStepAllocatesNoMore) {
  SplittingNullExecutor executor(/*n_layers=*/4, /*chunk_rows=*/64, kFirstLetter);
  PlanSolver solver(MultiHeadProfile());
  PlannerOptions options;
  options.pool_bytes = 1e12;
  Planner planner(solver, options);
  DecodeAndCount(executor, &planner);
  // How many plans are known in time is the solver thread's affair, and the machine's.
  EXPECT_GT(planner.Snapshot().memo_hits, 0U);
}

}  // namespace
}  // namespace spillway::scheduler
