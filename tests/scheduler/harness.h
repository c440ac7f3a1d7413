// Harness: a scheduler over fakes, turned by hand on a manual clock, and clients that check what they are
// told. Shared by the scheduler's tests and the simulation.
#ifndef SPILLWAY_TESTS_SCHEDULER_HARNESS_H_
#define SPILLWAY_TESTS_SCHEDULER_HARNESS_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/kv/block_store.h"
#include "engine/text/tokenizer.h"
#include "profiler/machine_profile.h"
#include "scheduler/plan_solver.h"
#include "scheduler/planner.h"
#include "scheduler/scheduler.h"
#include "tests/fakes/fake_executor.h"

namespace spillway::scheduler {

// A vocabulary of 64 tokens: <unk>, <s>, </s> (which stops), letters, pairs of letters that share their
// beginnings and ends, and the bytes of a two-byte character, each a token of its own.
constexpr text::TokenId kStopToken = 2;
constexpr text::TokenId kFirstLetter = 3;
constexpr int32_t kVocabSize = 64;
const text::Tokenizer& TestTokenizer();

struct CountingObserver : Observer {
  void OnStep(const exec::StepStats& stats) override {
    ++steps;
    if (stats.phase == exec::Phase::kPrefill) prefill_rows += stats.rows;
    predicted_steps += stats.predicted_step_s > 0;
    if (stats.schedule == exec::Schedule::kColumn) columns.push_back(stats);
  }
  void OnFirstToken(double seconds) override { first_token_s.push_back(seconds); }
  void OnScheduled(double seconds) override { queue_s.push_back(seconds); }
  void OnPrefilled(double, int32_t, int32_t) override { ++prefilled; }
  void OnTokens(int32_t n, double gap_seconds) override {
    tokens += n;
    gaps_s.push_back(gap_seconds);
  }
  void OnPreempted() override { ++preempted; }
  void OnFinished(const RequestRecord& record) override { records.push_back(record); }
  void OnRejected(Reason reason) override { rejected.push_back(reason); }

  int64_t steps = 0;
  int64_t prefill_rows = 0;
  int64_t predicted_steps = 0;
  std::vector<exec::StepStats> columns;  // of each item
  int64_t prefilled = 0;
  int64_t tokens = 0;
  int64_t preempted = 0;
  std::vector<double> first_token_s;
  std::vector<double> queue_s;
  std::vector<double> gaps_s;
  std::vector<RequestRecord> records;
  std::vector<Reason> rejected;
};

// One call: reads its stream and checks the order of events as they come.
class Client {
 public:
  struct Choice {
    std::vector<text::TokenId> tokens;
    std::string text;
    std::vector<Logprob> logprobs;
    std::optional<FinishedEvent> finished;
  };

  explicit Client(Request request, int32_t max_events = 1 << 20,
                  int64_t max_bytes = TokenStream::kMaxWaitingBytes);

  // Takes what waits.
  void Read();
  void Cancel() { stream->Cancel(); }
  bool ended_well() const { return ended && status.ok(); }

  const Request request;
  const std::shared_ptr<TokenStream> stream;
  std::vector<Choice> choices;
  std::vector<ProgressEvent> progress;
  std::optional<StartedEvent> started;
  std::optional<UsageEvent> usage;
  std::vector<std::string> faults;  // of order; empty when all is well
  int32_t times_ended = 0;
  bool ended = false;
  absl::Status status;

 private:
  void Fault(std::string what) { faults.push_back(std::move(what)); }
  Choice* ChoiceOf(int32_t index);
};

// What a request's choice gives alone, from the model over plain arrays and the whole text at once.
Client::Choice ExpectedChoice(const Request& request, int32_t index,
                              const fakes::FakeExecutorOptions& options);
// Faults where the client's choices differ from what is expected; a prefix is enough when it did not end
// well.
std::vector<std::string> CompareWithAlone(const Client& client, const fakes::FakeExecutorOptions& options);

struct HarnessOptions {
  fakes::FakeExecutorOptions executor;
  int64_t n_blocks = 256;  // of K and V
  // Set: as many slots, in these forms.
  std::optional<kv::FormPolicy> forms;
  SchedulerOptions scheduler;
  // Set: steps are planned, on this profile.
  std::optional<profiler::MachineProfile> profile;
  PlannerOptions planner;

  HarnessOptions() {
    scheduler.context_tokens = 512;
    scheduler.max_sequences = 8;
    scheduler.max_queue = 64;
    scheduler.prefill_rows = 64;
    scheduler.max_gap_ms = 0.1;
    scheduler.reserve_output_tokens = 8;
    scheduler.slow_reader_timeout_ms = 5000;
    scheduler.model_fingerprint = {1, 2, 3};
    // Real time, of which only a test that fails needs much.
    planner.longest_wait = std::chrono::seconds(20);
  }
};

class Harness {
 public:
  explicit Harness(const HarnessOptions& options = {});

  // Submits; the client reads its own stream where the test calls Read.
  absl::Status Submit(Client& client);
  std::unique_ptr<Client> MustSubmit(Request request);
  // Until there is nothing to visit; reads all clients given after each step.
  void RunAll(absl::Span<Client* const> clients = {}, int64_t max_steps = 1'000'000);

  kv::Geometry geometry() const;
  // What every sequence at rest leaves: nothing in use.
  int64_t blocks_in_use() const { return blocks.Counts().in_use_blocks; }

  const HarnessOptions options;
  ManualClock clock;
  kv::BlockStore blocks;
  fakes::FakeExecutor executor;
  CountingObserver observer;
  std::unique_ptr<PlanSolver> plan_solver;  // where there is a profile
  std::unique_ptr<Planner> planner;
  std::unique_ptr<Scheduler> scheduler;
};

// A prompt of n letters, other ones for other seeds.
std::vector<text::TokenId> Prompt(int32_t n_tokens, uint32_t seed = 1);
Request MakeRequest(std::vector<text::TokenId> prompt, int32_t max_tokens);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_TESTS_SCHEDULER_HARNESS_H_
