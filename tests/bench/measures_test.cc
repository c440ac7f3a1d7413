// The arithmetic under a report: percentiles, distributions, the ledger, scrapes and slopes.
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "bench/distribution.h"
#include "bench/latency_histogram.h"
#include "bench/ledger.h"
#include "bench/metrics_text.h"
#include "bench/server_probe.h"
#include "bench/thread_times.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

TEST(LatencyHistogramTest, PercentilesAreNearestRanksWithinHalfAPerCent) {
  LatencyHistogram histogram;
  for (int64_t ms = 1000; ms >= 1; --ms) histogram.Add(ms * 1'000'000);
  for (const double percent : {1.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9}) {
    EXPECT_NEAR(histogram.PercentileMs(percent), percent * 10, percent * 10 * 0.0051) << percent;
  }
  EXPECT_EQ(histogram.PercentileMs(100), 1000);
  EXPECT_EQ(histogram.max_ms(), 1000);
  EXPECT_DOUBLE_EQ(histogram.mean_ms(), 500.5);
  EXPECT_EQ(histogram.count(), 1000);
}

TEST(LatencyHistogramTest, FewSamplesGiveOneOfThem) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.PercentileMs(50), 0);
  histogram.Add(3'000'000);
  EXPECT_EQ(histogram.PercentileMs(1), 3);
  EXPECT_EQ(histogram.PercentileMs(99), 3);
  histogram.Add(9'000'000);
  EXPECT_NEAR(histogram.PercentileMs(50), 3, 0.02) << "the first of two is not above half of them";
  EXPECT_EQ(histogram.PercentileMs(51), 9);
}

TEST(LatencyHistogramTest, ExtremesStayInRange) {
  LatencyHistogram histogram;
  histogram.Add(-5);
  histogram.Add(0);
  histogram.Add(INT64_MAX);
  EXPECT_EQ(histogram.count(), 3);
  EXPECT_GE(histogram.PercentileMs(1), 0);
  EXPECT_LE(histogram.PercentileMs(1), 0.01);
}

TEST(LatencyHistogramTest, MergingIsAddingTheSamplesOfBoth) {
  LatencyHistogram a;
  LatencyHistogram b;
  LatencyHistogram both;
  for (int64_t i = 1; i <= 100; ++i) {
    (i % 3 == 0 ? a : b).Add(i * 777'777);
    both.Add(i * 777'777);
  }
  a.Merge(b);
  a.Merge(LatencyHistogram());
  EXPECT_EQ(a.ToJson(), both.ToJson());
}

TEST(RandomTest, ASeedFixesTheDraws) {
  Random a(7);
  Random b(7);
  Random c(8);
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const double value = a.Uniform();
    EXPECT_EQ(value, b.Uniform());
    differs = differs || value != c.Uniform();
    EXPECT_GE(value, 0);
    EXPECT_LT(value, 1);
  }
  EXPECT_TRUE(differs);
}

TEST(RandomTest, ArrivalsArePoisson) {
  // Gaps of mean 1/rate and a variance of the mean squared; and a share e^-1 above the mean.
  Random random(1);
  constexpr int kDraws = 200'000;
  double sum = 0;
  double squares = 0;
  int above = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double gap = random.Exponential(0.25);
    sum += gap;
    squares += gap * gap;
    above += gap > 0.25 ? 1 : 0;
  }
  const double mean = sum / kDraws;
  EXPECT_NEAR(mean, 0.25, 0.25 * 0.01);
  EXPECT_NEAR(squares / kDraws - mean * mean, 0.25 * 0.25, 0.25 * 0.25 * 0.02);
  EXPECT_NEAR(static_cast<double>(above) / kDraws, std::exp(-1.0), 0.005);
}

double MeanLength(const LengthDistribution& lengths, int64_t limit) {
  Random random(3);
  double sum = 0;
  for (int i = 0; i < 50'000; ++i) sum += static_cast<double>(lengths.Draw(random, limit));
  return sum / 50'000;
}

TEST(LengthDistributionTest, MeansAreWhatWasAskedFor) {
  EXPECT_EQ(MeanLength(*LengthDistribution::Parse("fixed:128"), 4096), 128);
  EXPECT_EQ(MeanLength(*LengthDistribution::Parse("128"), 4096), 128);
  EXPECT_NEAR(MeanLength(*LengthDistribution::Parse("uniform:10-20"), 4096), 15, 0.05);
  EXPECT_NEAR(MeanLength(*LengthDistribution::Parse("lognormal:200,0.5"), 1 << 20), 200, 2);
}

TEST(LengthDistributionTest, DrawsStayWithinTheLimit) {
  Random random(1);
  const LengthDistribution lengths = *LengthDistribution::Parse("lognormal:100,2");
  for (int i = 0; i < 10'000; ++i) {
    const int64_t tokens = lengths.Draw(random, 150);
    ASSERT_GE(tokens, 1);
    ASSERT_LE(tokens, 150);
  }
  const LengthDistribution ends = *LengthDistribution::Parse("uniform:1-3");
  bool seen[4] = {};
  for (int i = 0; i < 1000; ++i) seen[ends.Draw(random, 10)] = true;
  EXPECT_TRUE(seen[1] && seen[2] && seen[3]) << "both ends are included";
}

TEST(LengthDistributionTest, NonsenseIsRefused) {
  for (const char* text :
       {"", "0", "fixed:0", "fixed:", "uniform:5", "uniform:9-3", "uniform:0-3", "normal:3,4",
        "lognormal:100", "lognormal:0.5,1", "lognormal:100,-1", "lognormal:nan,1", "fixed:99999999999"}) {
    EXPECT_FALSE(LengthDistribution::Parse(text).ok()) << text;
  }
}

TEST(LedgerTest, BalancesWhenEverythingEndedOnce) {
  Ledger ledger;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(ledger.Sent(), i);
  EXPECT_FALSE(ledger.balanced());
  ledger.Ended(4, Outcome::kOk);
  ledger.Ended(0, Outcome::kCancelled, "cancelled after a time");
  ledger.Ended(1, Outcome::kRejected, "RESOURCE_EXHAUSTED/QUEUE_FULL");
  ledger.Ended(2, Outcome::kRejected, "RESOURCE_EXHAUSTED/QUEUE_FULL");
  EXPECT_FALSE(ledger.balanced());
  EXPECT_THAT(ledger.Describe(), HasSubstr("1 that never ended"));
  ledger.Ended(3, Outcome::kFailed, "INTERNAL");
  EXPECT_TRUE(ledger.balanced());
  EXPECT_EQ(ledger.Describe(), "5 sent = 1 ok + 1 cancelled + 2 rejected + 0 slow_reader + 1 failed");
  EXPECT_THAT(ledger.causes(), ElementsAre(Pair("INTERNAL", 1), Pair("RESOURCE_EXHAUSTED/QUEUE_FULL", 2),
                                           Pair("cancelled after a time", 1)));
}

TEST(LedgerTest, EndingTwiceOrUnsentDoesNotBalance) {
  Ledger twice;
  twice.Ended(twice.Sent(), Outcome::kOk);
  EXPECT_TRUE(twice.balanced());
  twice.Ended(0, Outcome::kFailed);
  EXPECT_FALSE(twice.balanced());
  EXPECT_EQ(twice.count(Outcome::kFailed), 0);
  Ledger unsent;
  unsent.Ended(0, Outcome::kOk);
  EXPECT_FALSE(unsent.balanced());
}

TEST(LedgerTest, ABrokenContractDoesNotBalance) {
  Ledger ledger;
  ledger.Ended(ledger.Sent(), Outcome::kOk);
  ledger.ContractBroken("usage missing");
  ledger.ContractBroken("another");
  EXPECT_FALSE(ledger.balanced());
  EXPECT_THAT(ledger.Describe(), HasSubstr("2 broke the contract, first: usage missing"));
  EXPECT_EQ(ledger.ToJson()["contracts_broken"], 2);
}

TEST(LedgerTest, MergingKeepsTheBooks) {
  Ledger a;
  Ledger b;
  a.Ended(a.Sent(), Outcome::kOk);
  b.Sent();
  a.Merge(b);
  EXPECT_EQ(a.sent(), 2);
  EXPECT_FALSE(a.balanced());
  a.Ended(1, Outcome::kOk);
  EXPECT_TRUE(a.balanced());
}

TEST(MetricsTextTest, SamplesAreFoundByNameAndLabels) {
  const MetricsText metrics = MetricsText::Parse(
      "# HELP spillway_kv_blocks Blocks\n# TYPE spillway_kv_blocks gauge\n"
      "spillway_kv_blocks{state=\"free\"} 90\nspillway_kv_blocks{state=\"in use } now\"} 10\n"
      "process_cpu_seconds_total 12.5\nwith_time 3 1700000000\nspillway_kv_blocks_other 7\nbroken\n\n");
  EXPECT_EQ(metrics.Find("spillway_kv_blocks{state=\"free\"}"), 90);
  EXPECT_EQ(metrics.Find("process_cpu_seconds_total"), 12.5);
  EXPECT_EQ(metrics.Find("with_time"), 3);
  EXPECT_EQ(metrics.Find("nothing"), std::nullopt);
  EXPECT_EQ(metrics.Sum("spillway_kv_blocks"), 100);
  EXPECT_EQ(metrics.Sum("nothing"), 0);
}

TEST(ResidentSlopeTest, IsTheLineThroughTheLaterSamples) {
  std::vector<MemorySample> samples;
  for (int i = 0; i <= 10; ++i) {
    // Grows fast for four seconds, then by 5 bytes a second.
    const double t = i;
    samples.push_back({t, t < 4 ? 1000 * t : 4000 + 5 * (t - 4)});
  }
  EXPECT_NEAR(ResidentSlope(samples, 4), 5, 1e-9);
  EXPECT_GT(ResidentSlope(samples, 0), 100);
  EXPECT_EQ(ResidentSlope(samples, 10), 0) << "one sample has no slope";
  EXPECT_EQ(ResidentSlope({}, 0), 0);
}

TEST(ThreadTimesTest, ThreadsOfOneNameAreAddedUp) {
  const std::filesystem::path root =
      std::filesystem::path(::testing::TempDir()) / (std::to_string(getpid()) + "_proc");
  const auto write = [&](int thread, const std::string& name, int user, int system) {
    const auto folder = root / "42" / "task" / std::to_string(thread);
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "stat") << thread << " (" << name << ") S 1 1 1 0 -1 0 0 0 0 0 " << user << " "
                                   << system << " 0 0 20 0 1 0\n";
  };
  write(42, "step", 100, 50);
  write(43, "grpc (poll) x", 20, 0);
  write(44, "grpc (poll) x", 0, 30);
  const auto times = ReadThreadTimes(root.string(), 42);
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_DOUBLE_EQ(times->at("step") / times->at("grpc (poll) x"), 3.0);
  EXPECT_EQ(times->size(), 2U);
  EXPECT_FALSE(ReadThreadTimes(root.string(), 41).ok());
}

}  // namespace
}  // namespace spillway::bench
