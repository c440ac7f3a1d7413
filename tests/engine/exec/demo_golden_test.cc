// The demo model against the logits that Hugging Face Transformers computed from the same file in f32
// (tests/golden/make_model_goldens.py). Runs where SPILLWAY_DEMO_MODEL names SmolLM2-135M-Instruct as GGUF.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"

namespace spillway::exec {
namespace {

struct DemoPrompt {
  std::vector<text::TokenId> ids;           // [tokens]
  std::vector<int32_t> top_ids;             // [tokens, top]
  std::vector<float> top_logits;            // [tokens, top]
  std::vector<float> probe_logits;          // [tokens, probes]
  std::vector<float> logsumexp;             // [tokens]
  std::vector<text::TokenId> continuation;  // [steps], greedy
  std::vector<float> gaps;                  // [steps], to the second most likely token
};

struct DemoGolden {
  int32_t tokens = 0;
  int32_t top = 0;
  int32_t steps = 0;
  std::vector<int32_t> probes;
  std::vector<DemoPrompt> prompts;
};

template <typename T>
std::vector<T> Read(std::ifstream& file, int64_t count) {
  std::vector<T> values(static_cast<size_t>(count));
  file.read(reinterpret_cast<char*>(values.data()), count * static_cast<int64_t>(sizeof(T)));
  return values;
}

DemoGolden ReadDemoGolden() {
  std::ifstream file(SPILLWAY_TESTDATA "/model/demo.logits", std::ios::binary);
  DemoGolden golden;
  const std::vector<int32_t> sizes = Read<int32_t>(file, 5);
  golden.tokens = sizes[1];
  golden.top = sizes[2];
  golden.steps = sizes[4];
  golden.probes = Read<int32_t>(file, sizes[3]);
  for (int32_t i = 0; i < sizes[0]; ++i) {
    DemoPrompt prompt;
    prompt.ids = Read<int32_t>(file, golden.tokens);
    prompt.top_ids = Read<int32_t>(file, int64_t{golden.tokens} * golden.top);
    prompt.top_logits = Read<float>(file, int64_t{golden.tokens} * golden.top);
    prompt.probe_logits = Read<float>(file, int64_t{golden.tokens} * sizes[3]);
    prompt.logsumexp = Read<float>(file, golden.tokens);
    prompt.continuation = Read<int32_t>(file, golden.steps);
    prompt.gaps = Read<float>(file, golden.steps);
    golden.prompts.push_back(std::move(prompt));
  }
  EXPECT_TRUE(file.good());
  return golden;
}

struct DTypeCase {
  device::DType dtype;
  double max_tolerance;  // of a logit
  double rms_tolerance;
  double near_tie;  // a gap below which another greedy token is no error
};

class DemoGoldenTest : public ::testing::TestWithParam<DTypeCase> {
 protected:
  void SetUp() override {
    const char* path = std::getenv("SPILLWAY_DEMO_MODEL");
    if (path == nullptr) GTEST_SKIP() << "set SPILLWAY_DEMO_MODEL to the demo model's path";
    golden_ = ReadDemoGolden();
    ASSERT_EQ(golden_.prompts.size(), 20u);
#ifdef __SANITIZE_THREAD__
    // It looks at every load of the matrix products, which makes all prompts a matter of hours; races show
    // with one.
    golden_.prompts.resize(1);
#endif
    TinyEngineOptions options;
    options.dtype = GetParam().dtype;
    engine_ = std::make_unique<TinyEngine>(path, options);
  }

  DemoGolden golden_;
  std::unique_ptr<TinyEngine> engine_;
};

// Gathers differences from the golden values.
struct Differences {
  void Add(double difference) {
    largest = std::max(largest, std::isnan(difference) ? HUGE_VAL : std::abs(difference));
    sum_of_squares += difference * difference;
    ++count;
  }
  double rms() const { return std::sqrt(sum_of_squares / static_cast<double>(count)); }

  double largest = 0;
  double sum_of_squares = 0;
  int64_t count = 0;
};

double LogSumExp(const std::vector<float>& logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - max);
  return max + std::log(sum);
}

TEST_P(DemoGoldenTest, TeacherForcedLogitsAreThoseOfTransformers) {
  Differences logits;
  Differences logsumexp;
  float smallest = 0, largest = 0;
  for (const DemoPrompt& prompt : golden_.prompts) {
    const std::vector<std::vector<float>> rows = engine_->LogitsOfAll(prompt.ids);
    for (int32_t i = 0; i < golden_.tokens; ++i) {
      const std::vector<float>& row = rows[static_cast<size_t>(i)];
      for (int32_t j = 0; j < golden_.top; ++j) {
        const size_t at = static_cast<size_t>(i * golden_.top + j);
        logits.Add(double{row[static_cast<size_t>(prompt.top_ids[at])]} - double{prompt.top_logits[at]});
        largest = std::max(largest, prompt.top_logits[at]);
      }
      for (size_t j = 0; j < golden_.probes.size(); ++j) {
        const float expected = prompt.probe_logits[static_cast<size_t>(i) * golden_.probes.size() + j];
        logits.Add(double{row[static_cast<size_t>(golden_.probes[j])]} - double{expected});
        smallest = std::min(smallest, expected);
      }
      logsumexp.Add(LogSumExp(row) - double{prompt.logsumexp[static_cast<size_t>(i)]});
    }
  }
  std::cout << logits.count << " logits from " << smallest << " to " << largest << ": largest difference "
            << logits.largest << ", rms " << logits.rms() << "; logsumexp: largest " << logsumexp.largest
            << "\n";
  EXPECT_LT(logits.largest, GetParam().max_tolerance);
  EXPECT_LT(logits.rms(), GetParam().rms_tolerance);
  EXPECT_LT(logsumexp.largest, GetParam().max_tolerance);
}

TEST_P(DemoGoldenTest, GreedyTokensAreThoseOfTransformersExceptAtNearTies) {
  const size_t n = golden_.prompts.size();
  const int32_t max_rows = static_cast<int32_t>(n) * golden_.tokens;
  const std::unique_ptr<WorkItem> item = engine_->NewItem(max_rows);
  std::vector<Sequence> sequences(n);
  for (size_t i = 0; i < n; ++i) sequences[i].tokens = golden_.prompts[i].ids;
  int32_t near_ties = 0;
  double widest_tie = 0;
  int32_t n_new = golden_.tokens;  // first the prompts, then a token each
  for (int32_t step = 0; step < golden_.steps; ++step) {
    std::vector<Segment> segments;
    for (Sequence& sequence : sequences) segments.push_back(engine_->Next(sequence, n_new, Output::kSample));
    const StepResult result = engine_->Run(*item, segments, step == 0 ? Phase::kPrefill : Phase::kDecode);
    for (size_t i = 0; i < n; ++i) {
      const text::TokenId expected = golden_.prompts[i].continuation[static_cast<size_t>(step)];
      const double gap = golden_.prompts[i].gaps[static_cast<size_t>(step)];
      if (result.samples[i].token != expected) {
        EXPECT_LT(gap, GetParam().near_tie) << "prompt " << i << ", step " << step;
        ++near_ties;
        widest_tie = std::max(widest_tie, gap);
      }
      sequences[i].tokens.push_back(expected);  // goes on along the golden text
    }
    n_new = 1;
  }
  std::cout << static_cast<int32_t>(n) * golden_.steps << " greedy tokens, " << near_ties
            << " other ones at near ties (gap below " << GetParam().near_tie << ", widest " << widest_tie
            << ")\n";
}

INSTANTIATE_TEST_SUITE_P(DTypes, DemoGoldenTest,
                         ::testing::Values(DTypeCase{device::DType::kF32, 1e-3, 1e-4, 1e-3},
                                           DTypeCase{device::DType::kBF16, 2.5, 0.15, 0.25}),
                         [](const ::testing::TestParamInfo<DTypeCase>& test) {
                           return device::NameOf(test.param.dtype);
                         });

}  // namespace
}  // namespace spillway::exec
