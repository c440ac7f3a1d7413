// What the scheduler itself costs while sequences decode: over an executor that computes nothing.
#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "tests/fakes/null_executor.h"
#include "tests/scheduler/harness.h"

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

}  // namespace
}  // namespace spillway::scheduler

BENCHMARK_MAIN();
