#include "tests/sim/scheduler_sim.h"

#include <algorithm>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/scheduler/harness.h"

namespace spillway::scheduler {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int32_t Between(int32_t low, int32_t high) {  // both included
    return low + static_cast<int32_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Chance(double p) { return std::uniform_real_distribution<>()(engine_) < p; }
  template <typename T>
  T OneOf(std::initializer_list<T> values) {
    return *(values.begin() + Between(0, static_cast<int32_t>(values.size()) - 1));
  }

 private:
  std::mt19937_64 engine_;
};

HarnessOptions DrawMachine(Random& random) {
  HarnessOptions options;
  options.executor.n_layers = random.Between(1, 3);
  options.executor.chunk_rows = random.Between(3, 16);
  options.executor.block_tokens = random.OneOf({4, 8});
  options.executor.visits_in_flight = random.Between(0, 2);
  options.executor.read_ns = random.OneOf({0.0, 1.0, 20.0});
  options.n_blocks = random.Between(12, 80);
  options.scheduler.context_tokens = random.Between(40, 300);
  options.scheduler.max_sequences = random.Between(1, 10);
  options.scheduler.max_queue = random.Between(2, 30);
  options.scheduler.prefill_rows = random.Between(8, 100);
  options.scheduler.max_gap_ms = random.OneOf({0.001, 0.02, 0.1});
  options.scheduler.reserve_output_tokens = random.OneOf({0, 0, 4, 16});
  if (random.Chance(0.5)) {
    options.executor.weight_bytes = 1000;
    options.executor.weight_ns = random.OneOf({1000.0, 20'000.0});
  }
  options.scheduler.batch_sequences = random.Chance(0.5) ? random.Between(1, 4) : 0;
  options.scheduler.throughput_share = random.OneOf({0.0, 0.25, 0.9});
  if (random.Chance(0.3)) {
    options.scheduler.schedule = random.OneOf({exec::Schedule::kRow, exec::Schedule::kColumn});
  }
  if (random.Chance(0.5)) {
    options.forms = {.stores_x = true,
                     .both_below = random.OneOf({0.0, 0.5, 0.7, 1.0}),
                     .x_share = random.OneOf({0.0, 0.3, 0.8, 1.0})};
  }
  return options;
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), harness_(DrawMachine(random_)) {
    // A day has its own weather.
    arrivals_ = random_.OneOf({0.01, 0.05, 0.3});
    cancels_ = random_.OneOf({0.0, 0.1, 0.4});
    deadlines_ = random_.OneOf({0.0, 0.1, 0.3});
    slow_ = random_.OneOf({0.0, 0.1, 0.4});
    if (random_.Chance(0.05)) harness_.executor.FailAfter(random_.Between(0, 2000));
  }

  SimResult Run() {
    for (int32_t step = 0; step < 1500; ++step) {
      for (int32_t n = random_.Chance(0.01) ? 10 : 1; n > 0; --n) {
        if (random_.Chance(arrivals_)) Arrive();
      }
      Step();
    }
    // No more arrivals; readers that come at all come now. It must all end in bounded work.
    constexpr int64_t kMostSteps = 400'000;
    while (AnyLive() && result_.steps < kMostSteps) Step();
    if (AnyLive()) Fault("requests are left without progress");
    CheckAtRest();
    return std::move(result_);
  }

 private:
  enum class Reader { kPrompt, kSlow, kNever };
  struct Call {
    std::unique_ptr<Client> client;
    Reader reader = Reader::kPrompt;
    int64_t cancel_at_step = -1;
    bool checked = false;
  };

  void Fault(std::string what) { result_.faults.push_back(std::move(what)); }

  Request DrawRequest() {
    const int32_t most = harness_.scheduler->max_sequence_tokens();
    // Mostly a family's prefix and an end of its own.
    std::vector<text::TokenId> prompt = Prompt(random_.Between(0, most / 2), random_.Between(0, 2));
    const std::vector<text::TokenId> end =
        Prompt(random_.Between(1, std::max(1, most / 4)), static_cast<uint32_t>(random_.Between(0, 1000)));
    prompt.insert(prompt.end(), end.begin(), end.end());
    const int32_t room = most - static_cast<int32_t>(prompt.size());
    Request request = MakeRequest(std::move(prompt), std::max(1, random_.Between(1, std::max(1, room))));
    request.label = absl::StrCat("request ", ++n_calls_);
    request.n_choices = random_.Chance(0.2) ? random_.Between(2, 4) : 1;
    request.sampling.temperature = random_.OneOf({0.0F, 1.0F});
    request.sampling.seed = static_cast<uint64_t>(random_.Between(0, 5));
    request.sampling.repetition_penalty = random_.OneOf({1.0F, 1.3F});
    request.sampling.n_logprobs = random_.OneOf({-1, -1, 0, 2});
    request.ignore_eos = random_.Chance(0.5);
    if (random_.Chance(0.3)) request.stop_ids = {static_cast<text::TokenId>(random_.Between(3, 40))};
    if (random_.Chance(0.3)) request.min_tokens = random_.Between(1, 20);
    if (random_.Chance(0.3)) request.stop_strings = {"fe", "abba", "word"};
    request.include_stop = random_.Chance(0.3);
    request.skip_special = random_.Chance(0.7);
    request.priority = random_.Chance(0.3) ? random_.Between(-2, 2) : 0;
    if (random_.Chance(0.2)) request.cache_salt = {7};
    request.objective = random_.OneOf({Objective::kAuto, Objective::kLatency, Objective::kThroughput});
    if (random_.Chance(deadlines_)) {
      request.deadline_ns = harness_.clock.NowNs() + random_.Between(0, 2'000'000);
    }
    return request;
  }

  void Arrive() {
    Call call;
    int64_t max_bytes = TokenStream::kMaxWaitingBytes;
    if (random_.Chance(slow_)) {
      call.reader = random_.Chance(0.2) ? Reader::kNever : Reader::kSlow;
      max_bytes = random_.Between(1, 100);
    }
    call.client = std::make_unique<Client>(DrawRequest(), random_.OneOf({2, 8, 64}), max_bytes);
    if (random_.Chance(cancels_)) call.cancel_at_step = result_.steps + random_.Between(0, 300);
    if (random_.Chance(0.02)) call.client->Cancel();
    const absl::Status status = harness_.Submit(*call.client);
    if (!status.ok()) {
      const Reason reason = ReasonOf(status);
      const Client& client = *call.client;
      const bool may_refuse =
          reason == Reason::kQueueFull ||
          (reason == Reason::kDeadlineUnreachable && client.request.deadline_ns != 0) ||
          (reason == Reason::kEngineFailed && harness_.scheduler->Snapshot().failed) ||
          // The draw of max_tokens takes one even where there is room for none.
          ((reason == Reason::kRequestTooLarge || reason == Reason::kPromptTooLong) &&
           static_cast<int32_t>(client.request.prompt.size()) + client.request.max_tokens >
               harness_.scheduler->max_sequence_tokens());
      if (!may_refuse) Fault(absl::StrCat("refused without need: ", status.ToString()));
      ++refused_;
      return;
    }
    ++result_.accepted;
    calls_.push_back(std::move(call));
  }

  void Step() {
    ++result_.steps;
    if (harness_.blocks.stores_x() && random_.Chance(0.01)) {
      harness_.blocks.SteerTo(random_.OneOf({0.0, 0.3, 0.8, 1.0}));
    }
    if (!harness_.scheduler->RunOnce()) {
      // Nothing to do before something happens; slow readers' time passes too.
      harness_.clock.AdvanceNs(random_.Chance(0.05) ? 400 * kNsPerMs : random_.Between(1, 50'000));
    }
    for (Call& call : calls_) {
      Client& client = *call.client;
      if (client.ended) continue;
      if (call.cancel_at_step == result_.steps) client.Cancel();
      if (call.reader == Reader::kPrompt || (call.reader == Reader::kSlow && random_.Chance(0.02))) {
        client.Read();
      }
    }
  }

  bool AnyLive() {
    bool any = false;
    for (Call& call : calls_) {
      // Whoever never reads still gets an end, which is looked for without reading before it is there.
      if (call.reader == Reader::kNever && Ended(call)) call.client->Read();
      any |= !call.client->ended;
    }
    return any;
  }
  bool Ended(const Call& call) const {
    return std::any_of(
        harness_.observer.records.begin(), harness_.observer.records.end(),
        [&](const RequestRecord& record) { return record.label == call.client->request.label; });
  }

  void CheckAtRest() {
    for (const Call& call : calls_) Check(call);
    if (harness_.blocks_in_use() != 0) Fault(absl::StrCat(harness_.blocks_in_use(), " blocks leak"));
    if (harness_.executor.running_items() != 0) Fault("work items are left running");
    if (harness_.executor.distinct_mismatches() != 0) Fault("a plan's shape was wrong");
    const CountingObserver& observer = harness_.observer;
    if (static_cast<int64_t>(observer.records.size()) != result_.accepted)
      Fault("the ledger does not balance");
    if (static_cast<int64_t>(observer.rejected.size()) != refused_) Fault("refusals are not all counted");
    const SchedulerSnapshot snapshot = harness_.scheduler->Snapshot();
    if (snapshot.running_sequences != 0 || snapshot.waiting_requests != 0 || snapshot.waiting_tokens != 0 ||
        snapshot.paused_sequences != 0 || snapshot.has_work) {
      Fault(absl::StrCat("the snapshot at rest: ", snapshot.running_sequences, " running, ",
                         snapshot.waiting_requests, " waiting with ", snapshot.waiting_tokens, " tokens, ",
                         snapshot.paused_sequences, " paused, has work: ", snapshot.has_work));
    }
    result_.preemptions = snapshot.preemptions;
    result_.forms_dropped = snapshot.blocks.dropped_kv + snapshot.blocks.dropped_x;
    result_.prefix_hit_tokens = snapshot.prefix_hit_tokens;
    result_.engine_failures = snapshot.failed;
  }

  void Check(const Call& call) {
    const Client& client = *call.client;
    const std::string& label = client.request.label;
    for (const std::string& fault : client.faults) Fault(absl::StrCat(label, ": ", fault));
    for (std::string& fault : CompareWithAlone(client, harness_.options.executor)) Fault(std::move(fault));
    if (client.times_ended != 1) Fault(absl::StrCat(label, " ended ", client.times_ended, " times"));
    for (const Client::Choice& choice : client.choices) {
      result_.tokens += static_cast<int64_t>(choice.tokens.size());
    }
    const Reason reason = ReasonOf(client.status);
    result_.ended_well += reason == Reason::kNone;
    result_.slow_readers += reason == Reason::kSlowReader;
    const bool expected = reason == Reason::kNone ||
                          (reason == Reason::kCancelled && client.stream->cancelled()) ||
                          (reason == Reason::kDeadlineExceeded && client.request.deadline_ns != 0) ||
                          (reason == Reason::kSlowReader && call.reader != Reader::kPrompt) ||
                          (reason == Reason::kEngineFailed && harness_.scheduler->Snapshot().failed);
    if (!expected) Fault(absl::StrCat(label, " ended with ", client.status.ToString()));
  }

  Random random_;
  Harness harness_;
  double arrivals_ = 0;
  double cancels_ = 0;
  double deadlines_ = 0;
  double slow_ = 0;
  int64_t n_calls_ = 0;
  int64_t refused_ = 0;
  std::vector<Call> calls_;
  SimResult result_;
};

}  // namespace

SimResult Simulate(uint64_t seed) { return Simulation(seed).Run(); }

}  // namespace spillway::scheduler
