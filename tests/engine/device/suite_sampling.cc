// Sample. Draws are checked against the reference's distribution: every drawn token must be possible under
// it, and over many positions its frequencies must fit (chi-square), with fixed seeds.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/engine/device/device_suite.h"
#include "tests/engine/device/reference.h"

namespace spillway::device {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

SampleRow Neutral() {
  SampleRow row{};
  row.temperature = 1;
  row.top_p = 1;
  row.repetition_penalty = 1;
  row.n_logprobs = -1;
  row.seed = 42;
  return row;
}

std::vector<float> RandomLogits(DeviceSuite& suite, int64_t n, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(static_cast<size_t>(n));
  for (float& logit : logits) logit = normal(suite.random_);
  return logits;
}

// Samples every row of `rows`, each from the same logits.
std::vector<SampleResult> Sample(DeviceSuite& suite, const std::vector<float>& logits,
                                 const std::vector<SampleRow>& rows) {
  std::vector<float> all;
  for (size_t r = 0; r < rows.size(); ++r) all.insert(all.end(), logits.begin(), logits.end());
  std::vector<SampleResult> results(rows.size());
  SampleArgs args;
  args.rows = static_cast<int32_t>(rows.size());
  args.vocab = static_cast<int32_t>(logits.size());
  args.logits = suite.UploadArray(all);
  args.sample = rows.data();
  args.results = results.data();
  suite.device_->Sample(suite.stream_, args);
  suite.Synchronize();
  return results;
}

SampleResult SampleOne(DeviceSuite& suite, const std::vector<float>& logits, const SampleRow& row) {
  return Sample(suite, logits, {row})[0];
}

// Draws at many positions and compares with the reference distribution.
void CheckDraws(DeviceSuite& suite, const std::vector<float>& logits, SampleRow row, int draws,
                const std::string& what) {
  draws = std::max(draws / suite.GetParam().one_in, 1);
  const reference::Values want = reference::Distribution(row, logits);
  std::vector<SampleRow> rows;
  for (int i = 0; i < draws; ++i) {
    row.position = i;
    rows.push_back(row);
  }
  std::map<int32_t, int> counts;
  for (const SampleResult& result : Sample(suite, logits, rows)) {
    ASSERT_GE(result.token, 0) << what;
    ASSERT_LT(result.token, static_cast<int32_t>(logits.size())) << what;
    ASSERT_GT(want[static_cast<size_t>(result.token)], 0) << what << ": drew token " << result.token;
    ++counts[result.token];
  }
  // Tokens expected fewer than 5 times are taken together.
  double chi_square = 0;
  double rest_want = 0;
  double rest_got = 0;
  int cells = 0;
  for (size_t token = 0; token < want.size(); ++token) {
    const double expected = want[token] * draws;
    const double got = counts[static_cast<int32_t>(token)];
    if (expected < 5) {
      rest_want += expected;
      rest_got += got;
    } else {
      chi_square += (got - expected) * (got - expected) / expected;
      ++cells;
    }
  }
  if (rest_want >= 5) {
    chi_square += (rest_got - rest_want) * (rest_got - rest_want) / rest_want;
    ++cells;
  }
  // Mean f, deviation sqrt(2f): five deviations above is beyond chance; seeds are fixed.
  const double freedom = std::max(cells - 1, 0);
  EXPECT_LE(chi_square, freedom + 5 * std::sqrt(2 * freedom) + 1e-9) << what << ", " << cells << " cells";
}

TEST_P(DeviceSuite, GreedyTakesTheFirstOfTheLargest) {
  std::vector<float> logits = RandomLogits(*this, 1000, 1);
  logits[700] = logits[300] = logits[999] = 9;
  SampleRow row = Neutral();
  row.temperature = 0;
  EXPECT_EQ(SampleOne(*this, logits, row).token, 300);
  for (int64_t vocab : {1, 15, 16, 17}) {
    std::vector<float> few(static_cast<size_t>(vocab), -1.0F);
    few.back() = 2;
    EXPECT_EQ(SampleOne(*this, few, row).token, vocab - 1);
  }
}

TEST_P(DeviceSuite, UnfilteredDrawsFollowTheSoftmax) {
  for (float temperature : {0.5F, 1.0F, 1.7F}) {
    SampleRow row = Neutral();
    row.temperature = temperature;
    CheckDraws(*this, RandomLogits(*this, 50, 1.5F), row, 4000, absl::StrCat("temperature ", temperature));
    CheckDraws(*this, RandomLogits(*this, 3001, 1.5F), row, 1500,
               absl::StrCat("long, temperature ", temperature));
  }
}

TEST_P(DeviceSuite, FilteredDrawsFollowTheRenormalisedSoftmax) {
  for (float deviation : {0.1F, 1.5F, 6.0F}) {
    const std::vector<float> logits = RandomLogits(*this, 2003, deviation);
    for (int32_t top_k : {0, 1, 5, 200}) {
      for (float top_p : {0.0F, 0.3F, 0.9F, 1.0F}) {
        for (float min_p : {0.0F, 0.2F}) {
          SampleRow row = Neutral();
          row.temperature = 0.8F;
          row.top_k = top_k;
          row.top_p = top_p;
          row.min_p = min_p;
          CheckDraws(
              *this, logits, row, 400,
              absl::StrCat("deviation ", deviation, " top_k ", top_k, " top_p ", top_p, " min_p ", min_p));
        }
      }
    }
  }
}

TEST_P(DeviceSuite, TopKKeepsTheLowestIdsAmongEquals) {
  std::vector<float> logits(300, 0.0F);
  logits[250] = 1;
  SampleRow row = Neutral();
  row.top_k = 4;
  CheckDraws(*this, logits, row, 800, "equal logits");
}

TEST_P(DeviceSuite, PenaltiesAndMasksApplyBeforeFilters) {
  const std::vector<float> logits = RandomLogits(*this, 100, 2);
  std::vector<int32_t> history;
  for (int i = 0; i < 60; ++i) history.push_back(static_cast<int32_t>(i * i % 41));
  std::vector<uint32_t> mask = {0x0f0f0f0f, 0, 0xffff0000, 0x3};
  const std::vector<int32_t> ids = {50, 51, 99};
  SampleRow row = Neutral();
  row.history = history.data();
  row.n_prompt = 20;
  row.n_history = static_cast<int32_t>(history.size());
  const auto check = [&](const std::string& what) { CheckDraws(*this, logits, row, 3000, what); };
  row.repetition_penalty = 1.4F;
  check("repetition");
  row.repetition_penalty = 1;
  row.frequency_penalty = 0.3F;
  check("frequency");
  row.frequency_penalty = 0;
  row.presence_penalty = -0.7F;
  check("presence");
  row.repetition_penalty = 0.8F;
  row.frequency_penalty = 0.2F;
  row.forbidden = mask.data();
  row.forbidden_ids = ids.data();
  row.n_forbidden_ids = 3;
  check("all of them");
  row.top_k = 10;
  row.top_p = 0.8F;
  check("all of them, filtered");
  row.temperature = 0;
  check("all of them, greedy");
}

TEST_P(DeviceSuite, PenaltiesOfOneRowDoNotReachTheNext) {
  const std::vector<float> logits = RandomLogits(*this, 500, 1);
  const int32_t best = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  SampleRow plain = Neutral();
  plain.temperature = 0;
  SampleRow penalised = plain;
  penalised.history = &best;
  penalised.n_history = 1;
  penalised.presence_penalty = 100;
  const std::vector<SampleResult> results =
      Sample(*this, logits, {plain, penalised, plain, penalised, penalised, plain});
  for (size_t r : {0, 2, 5}) EXPECT_EQ(results[r].token, best);
  for (size_t r : {1, 3, 4}) EXPECT_NE(results[r].token, best);
}

TEST_P(DeviceSuite, RowsOfEveryKindAreSampledTogether) {
  // So many that the rows of one call may take more memory than a device has for them.
  const std::vector<float> logits = RandomLogits(*this, 8000, 1);
  std::vector<int32_t> best(logits.size());
  std::iota(best.begin(), best.end(), 0);
  std::sort(best.begin(), best.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  std::vector<uint32_t> mask(250);
  mask[static_cast<size_t>(best[0] / 32)] |= 1U << (best[0] % 32);
  SampleRow plain = Neutral();
  plain.temperature = 0;
  std::vector<SampleRow> kinds(7, plain);
  kinds[1].history = best.data();  // in place of what it takes from the logits: counts
  kinds[1].n_history = 1;
  kinds[1].presence_penalty = 100;
  kinds[2].forbidden = mask.data();  // a copy, for the logprobs
  kinds[2].n_logprobs = 1;
  kinds[3] = kinds[1];  // both
  kinds[3].n_logprobs = 1;
  for (size_t kind : {4, 5, 6}) {
    kinds[kind].history = best.data();
    kinds[kind].n_history = 1;
  }
  kinds[4].frequency_penalty = 100;
  kinds[5].repetition_penalty = 100;
  kinds[6].frequency_penalty = 1e-6F;  // changes nothing where it is counted right
  for (size_t round = 0; round < 7; ++round) {
    std::vector<SampleRow> rows;
    for (size_t r = 0; r < 9; ++r) rows.push_back(kinds[(r * (round % 3 + 1) + round) % kinds.size()]);
    const std::vector<SampleResult> results = Sample(*this, logits, rows);
    for (size_t r = 0; r < rows.size(); ++r) {
      const bool changed =
          (rows[r].n_history > 0 && rows[r].frequency_penalty != 1e-6F) || rows[r].forbidden != nullptr;
      EXPECT_EQ(results[r].token, best[changed ? 1 : 0]) << "round " << round << " row " << r;
      if (rows[r].n_logprobs < 0) continue;
      EXPECT_EQ(results[r].top[0].token, best[0]) << "round " << round << " row " << r;
    }
  }
}

TEST_P(DeviceSuite, DrawsDependOnSeedChoiceAndPositionOnly) {
  const std::vector<float> logits = RandomLogits(*this, 4000, 0.5F);
  SampleRow row = Neutral();
  row.position = 17;
  row.choice = 2;
  const int32_t token = SampleOne(*this, logits, row).token;
  std::vector<SampleRow> rows(9, row);
  for (size_t r = 0; r < rows.size(); ++r) {
    if (r == 4) continue;
    rows[r].seed += r + 1;
  }
  EXPECT_EQ(Sample(*this, logits, rows)[4].token, token);
  // Any of the three gives other draws.
  const auto tokens_with = [&](auto change) {
    std::vector<SampleRow> changed;
    for (int i = 0; i < 20; ++i) {
      changed.push_back(row);
      changed.back().position = i;
      change(changed.back());
    }
    std::vector<int32_t> tokens;
    for (const SampleResult& result : Sample(*this, logits, changed)) tokens.push_back(result.token);
    return tokens;
  };
  const std::vector<int32_t> base = tokens_with([](SampleRow&) {});
  EXPECT_EQ(base, tokens_with([](SampleRow&) {}));
  EXPECT_NE(base, tokens_with([](SampleRow& r) { r.seed ^= uint64_t{1} << 40; }));
  EXPECT_NE(base, tokens_with([](SampleRow& r) { ++r.choice; }));
  EXPECT_NE(base, tokens_with([](SampleRow& r) { ++r.position; }));
}

TEST_P(DeviceSuite, LogprobsAreOfTheUnmodifiedLogits) {
  std::vector<float> logits = RandomLogits(*this, 5000, 3);
  logits[77] = logits[4000] = 20;  // equals, most likely
  logits[123] = 19.5F;
  const std::vector<int32_t> history = {77, 4000};
  SampleRow row = Neutral();
  row.temperature = 0;
  row.history = history.data();
  row.n_history = 2;
  row.repetition_penalty = 3;
  row.n_logprobs = 5;
  const SampleResult result = SampleOne(*this, logits, row);
  EXPECT_EQ(result.token, 123);
  EXPECT_EQ(result.rank, 3);
  ASSERT_EQ(result.n_top, 5);

  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  const auto logprob = [&](int32_t token) { return static_cast<double>(logits[token]) - std::log(sum); };
  EXPECT_NEAR(result.logprob, logprob(123), 2e-6 * 20);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(result.top[i].token, order[i]) << i;
    EXPECT_NEAR(result.top[i].logprob, logprob(order[i]), 2e-6 * 20) << i;
  }
}

TEST_P(DeviceSuite, LogprobListsAreAsLongAsAskedFor) {
  const std::vector<float> logits = RandomLogits(*this, 7, 1);
  SampleRow row = Neutral();
  row.n_logprobs = 0;
  SampleResult result = SampleOne(*this, logits, row);
  EXPECT_EQ(result.n_top, 0);
  EXPECT_LT(result.logprob, 0);
  EXPECT_GE(result.rank, 1);
  row.n_logprobs = 20;
  EXPECT_EQ(SampleOne(*this, logits, row).n_top, 7);
  EXPECT_EQ(SampleOne(*this, RandomLogits(*this, 100, 1), row).n_top, 20);
  row.n_logprobs = -1;
  result = SampleOne(*this, logits, row);
  EXPECT_EQ(result.n_top, 0);
  EXPECT_EQ(result.rank, 0);
}

TEST_P(DeviceSuite, InvalidLogitsAreCountedAndNeverDrawn) {
  std::vector<float> logits = RandomLogits(*this, 1001, 1);
  for (size_t i = 0; i < logits.size(); i += 3) logits[i] = i % 2 == 0 ? kNan : kInfinity;
  for (float temperature : {0.0F, 1.0F}) {
    for (int32_t top_k : {0, 3}) {
      for (float top_p : {0.5F, 1.0F}) {
        SampleRow row = Neutral();
        row.temperature = temperature;
        row.top_k = top_k;
        row.top_p = top_p;
        row.n_logprobs = 3;
        const SampleResult result = SampleOne(*this, logits, row);
        EXPECT_EQ(result.n_invalid, 334);
        ASSERT_GE(result.token, 0);
        EXPECT_NE(result.token % 3, 0);
        EXPECT_TRUE(std::isfinite(result.logprob));
        EXPECT_EQ(result.n_top, 3);
        for (int i = 0; i < 3; ++i) EXPECT_NE(result.top[i].token % 3, 0);
      }
    }
  }
}

TEST_P(DeviceSuite, NothingToDrawIsSaid) {
  for (float temperature : {0.0F, 1.0F}) {
    SampleRow row = Neutral();
    row.temperature = temperature;
    row.n_logprobs = 2;
    SampleResult result = SampleOne(*this, std::vector<float>(100, kNan), row);
    EXPECT_EQ(result.token, -1);
    EXPECT_EQ(result.n_invalid, 100);
    EXPECT_EQ(result.n_top, 0);
    const std::vector<uint32_t> all(4, 0xffffffff);
    row.forbidden = all.data();
    result = SampleOne(*this, RandomLogits(*this, 100, 1), row);
    EXPECT_EQ(result.token, -1);
    EXPECT_EQ(result.n_invalid, 0);
    EXPECT_EQ(result.n_top, 2);
  }
}

TEST_P(DeviceSuite, ExtremeTemperaturesAreDefined) {
  const std::vector<float> logits = {-3e38F, 1.0F, 3.0F, 2.0F, -kInfinity};
  SampleRow row = Neutral();
  row.temperature = 1e-30F;
  EXPECT_EQ(SampleOne(*this, logits, row).token, 2);
  row.temperature = 1e30F;
  CheckDraws(*this, {1.0F, 3.0F, 2.0F, -kInfinity}, row, 600, "flat");
}

}  // namespace
}  // namespace spillway::device
