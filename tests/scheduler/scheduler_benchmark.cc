// What the scheduler itself costs while sequences decode, over an executor that computes nothing, and what
// planning costs.
#include <algorithm>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "tests/fakes/null_executor.h"
#include "tests/scheduler/harness.h"
#include "tests/scheduler/profiles.h"

namespace spillway::scheduler {
namespace {

struct NullObserver : Observer {
  void OnStep(const exec::StepStats&) override { ++steps; }
  void OnFirstToken(double) override {}
  void OnScheduled(double) override {}
  void OnPrefilled(double, int32_t, int32_t) override {}
  void OnTokens(int32_t n, double) override { tokens += n; }
  void OnPreempted() override {}
  void OnFinished(const RequestRecord&) override {}
  void OnRejected(Reason) override {}

  int64_t steps = 0;
  int64_t tokens = 0;
};

// One decode pass over all sequences, and each stream read once after it.
void BM_DecodePass(benchmark::State& state) {
  const int32_t n_sequences = static_cast<int32_t>(state.range(0));
  const int32_t n_layers = static_cast<int32_t>(state.range(1));
  const int32_t n_prompt = static_cast<int32_t>(state.range(2));
  constexpr int32_t kBlockTokens = 32;
  constexpr int32_t kMaxTokens = 1 << 20;
  fakes::NullExecutor executor(n_layers, 256, kFirstLetter);
  const int64_t n_blocks = n_sequences * (int64_t{n_prompt} / kBlockTokens + 4000);
  kv::BlockStore blocks(n_blocks);
  NullObserver observer;
  kv::Geometry geometry;
  geometry.block_tokens = kBlockTokens;
  SchedulerOptions options;
  options.context_tokens = n_prompt + kMaxTokens;
  options.max_sequences = n_sequences;
  auto scheduler =
      Scheduler::Create({executor, blocks, geometry, TestTokenizer(), Clock::Real(), observer}, options)
          .value();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int32_t i = 0; i < n_sequences; ++i) {
    streams.push_back(std::make_shared<TokenStream>(1024, [] {}));
    Request request = MakeRequest(Prompt(n_prompt, static_cast<uint32_t>(i)), 100'000);
    if (!scheduler->Submit(std::move(request), streams.back()).ok()) {
      state.SkipWithError("refused");
      return;
    }
  }
  while (scheduler->Snapshot().prefilling_sequences > 0 || observer.tokens == 0) scheduler->RunOnce();

  std::vector<Event> events;
  absl::Status status;
  const int64_t tokens_before = observer.tokens;
  for (auto _ : state) {
    const int64_t steps = observer.steps;
    while (observer.steps == steps) scheduler->RunOnce();
    state.PauseTiming();
    for (const auto& stream : streams) {
      events.clear();
      stream->Take(&events, &status);
    }
    state.ResumeTiming();
  }
  const double tokens = static_cast<double>(observer.tokens - tokens_before);
  state.counters["seconds_per_token"] =
      benchmark::Counter(tokens, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["passes_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK(BM_DecodePass)
    ->ArgNames({"sequences", "layers", "prompt"})
    ->Args({64, 1, 100})
    ->Args({64, 30, 100})
    ->Args({64, 30, 4000})
    ->Args({8, 30, 100})
    ->Iterations(3000);

exec::BatchShape RandomDecode(std::mt19937_64& random) {
  exec::BatchShape shape;
  shape.sequences = shape.new_tokens = shape.head_rows = 1 + static_cast<int32_t>(random() % 256);
  shape.host_both_tokens = 1000 + static_cast<int64_t>(random() % 1'000'000);
  shape.host_kv_tokens = static_cast<int64_t>(random() % 100'000);
  shape.resident_x_tokens = static_cast<int64_t>(random() % 100'000);
  shape.reads_tokens = shape.host_both_tokens + shape.host_kv_tokens + shape.resident_x_tokens;
  return shape;
}

void ReportPercentiles(std::vector<double> seconds, benchmark::State& state) {
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&seconds](double share) {
    return 1e6 * seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))];
  };
  state.counters["p50_us"] = at(0.5);
  state.counters["p99_us"] = at(0.99);
  state.counters["max_us"] = at(1);
}

// A rebuild curve of as many pieces as a profile may have: each is a row of the problem.
profiler::CostCurve CurvedCost(double per_unit_s) {
  std::vector<profiler::CostSample> samples;
  double seconds = 0;
  for (int i = 0; i <= profiler::CostCurve::kMaxPieces; ++i) {
    const double units = 16.0 * (1 << i);
    seconds += units / 2 * per_unit_s * (1 + 0.1 * i);
    samples.push_back({units, seconds});
  }
  return *profiler::FitConvex(samples);
}

// One solve, inputs made from the profile included: of a carry problem, or a placement problem. Asked: under
// 200 us at the 99th percentile.
void BM_Solve(benchmark::State& state) {
  profiler::MachineProfile profile = MultiHeadProfile();
  profile.rebuild = CurvedCost(2e-7);
  profile.compute_slowdown_by_link = 1.2;
  state.counters["pieces"] = static_cast<double>(profile.rebuild.pieces.size());
  const bool placement = state.range(0) != 0;
  std::mt19937_64 random(1);
  std::vector<double> seconds;
  for (auto _ : state) {
    const exec::BatchShape shape = RandomDecode(random);
    const MonotonicNs begin = Clock::Real().NowNs();
    SplitInputs inputs = MakeSplitInputs(profile, shape);
    if (placement) inputs.placement = PlacementBudget{8e9, 1e12};
    benchmark::DoNotOptimize(SolveSplit(inputs));
    seconds.push_back(ToSeconds(Clock::Real().NowNs() - begin));
  }
  ReportPercentiles(std::move(seconds), state);
}
BENCHMARK(BM_Solve)->ArgName("placement")->Arg(0)->Arg(1)->Iterations(20'000);

// What the step thread spends for a plan: of a known bucket, or of one that is solved meanwhile.
void BM_PlanFor(benchmark::State& state) {
  const bool known = state.range(0) != 0;
  PlanSolver solver(MultiHeadProfile());
  PlannerOptions options;
  options.pool_bytes = 1e12;
  Planner planner(solver, options);
  std::mt19937_64 random(2);
  exec::BatchShape shape = RandomDecode(random);
  planner.PlanFor(shape);
  std::vector<double> seconds;
  for (auto _ : state) {
    if (!known) shape = RandomDecode(random);
    const MonotonicNs begin = Clock::Real().NowNs();
    benchmark::DoNotOptimize(planner.PlanFor(shape));
    seconds.push_back(ToSeconds(Clock::Real().NowNs() - begin));
  }
  state.counters["late"] = static_cast<double>(planner.Snapshot().timeouts);
  ReportPercentiles(std::move(seconds), state);
}
BENCHMARK(BM_PlanFor)->ArgName("known")->Arg(1)->Arg(0)->Iterations(10'000);

}  // namespace
}  // namespace spillway::scheduler

BENCHMARK_MAIN();
