#include "scheduler/split_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "base/bytes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

using exec::Resource;
using exec::SplitMode;

// A 16-bit multi-head model on a link: chi = beta / 2, all tokens stored in both forms.
SplitInputs MultiHead(double tokens, double rebuild_s_per_token) {
  SplitInputs in;
  in.beta_bytes = 16384;
  in.chi_bytes = 8192;
  in.rates.link_in_bytes_per_s = 50e9;
  in.rates.link_out_bytes_per_s = 50e9;
  in.rates.link_both_bytes_per_s = 80e9;
  in.rates.host_memory_bytes_per_s = 200e9;
  in.rates.rebuild.pieces = {{0, rebuild_s_per_token}};
  LayerGroup group;
  group.n_layers = 32;
  group.host_both_tokens = tokens;
  in.groups = {group};
  return in;
}

double Log(std::mt19937_64& random, double low, double high) {
  return std::exp(std::uniform_real_distribution<double>(std::log(low), std::log(high))(random));
}

SplitInputs RandomCarry(std::mt19937_64& random, int n_groups, bool host) {
  std::uniform_real_distribution<double> unit(0, 1);
  SplitInputs in;
  in.beta_bytes = Log(random, 256, 65536);
  in.chi_bytes = in.beta_bytes * Log(random, 0.2, 4);
  in.rates.link_in_bytes_per_s = Log(random, 1e7, 1e11);
  in.rates.link_out_bytes_per_s = in.rates.link_in_bytes_per_s * Log(random, 0.5, 2);
  in.rates.link_both_bytes_per_s = in.rates.link_in_bytes_per_s * Log(random, 1, 2);
  in.rates.host_memory_bytes_per_s = in.rates.link_in_bytes_per_s * Log(random, 0.8, 10);
  if (host) {
    in.rates.host_attention_bytes_per_s = in.rates.link_in_bytes_per_s * Log(random, 0.05, 5);
    in.rates.host_attention_fixed_s = Log(random, 1e-7, 1e-5);
  }
  const double token_s = in.beta_bytes / in.rates.link_in_bytes_per_s;
  in.rates.rebuild.pieces = {{0, token_s * Log(random, 0.02, 3)}};
  // A launch that nothing rebuilt does not pay: all or nothing in every group, so one group.
  if (n_groups == 1 && random() % 3 == 0) in.rates.rebuild.pieces[0].fixed_s = token_s * Log(random, 1, 1e4);
  const ConvexCost::Piece& first = in.rates.rebuild.pieces[0];
  in.rates.rebuild.pieces.push_back({-1000 * first.per_token_s, first.per_token_s * 1.5});
  if (random() % 2 == 0) in.rates.compute_slowdown_by_link = Log(random, 1, 2);
  for (int i = 0; i < n_groups; ++i) {
    LayerGroup g;
    g.n_layers = 1 + static_cast<int>(random() % 80);
    const double tokens = Log(random, 10, 1e6);
    g.host_kv_tokens = unit(random) < 0.5 ? tokens * unit(random) : 0;
    g.host_x_tokens = unit(random) < 0.3 ? tokens * unit(random) : 0;
    g.host_both_tokens = tokens * unit(random);
    g.resident_kv_tokens = unit(random) < 0.5 ? tokens * unit(random) : 0;
    g.resident_x_tokens = unit(random) < 0.3 ? tokens * unit(random) : 0;
    g.linear_s = token_s * tokens * Log(random, 0.01, 1);
    g.attention_s = g.linear_s * unit(random);
    g.weight_bytes = unit(random) < 0.3 ? tokens * in.beta_bytes * unit(random) : 0;
    g.store_bytes = tokens * in.beta_bytes * 0.05 * unit(random);
    in.groups.push_back(g);
  }
  return in;
}

// The least value of a convex function on [low, high].
double MinimumOf(double low, double high, const std::function<double(double)>& f) {
  constexpr double kGolden = 0.6180339887498949;
  double a = low, b = high;
  double p = b - kGolden * (b - a), q = a + kGolden * (b - a);
  double fp = f(p), fq = f(q);
  for (int i = 0; i < 70; ++i) {
    if (fp <= fq) {
      b = q, q = p, fq = fp, p = b - kGolden * (b - a), fp = f(p);
    } else {
      a = p, p = q, fp = fq, q = a + kGolden * (b - a), fq = f(q);
    }
  }
  return std::min({fp, fq, f(low), f(high)});
}

// The best step over every (x, h) of one group, by search alone.
double SearchOneGroup(const SplitInputs& in) {
  const LayerGroup& g = in.groups[0];
  const double movable = g.host_kv_tokens + g.host_x_tokens + g.host_both_tokens;
  return MinimumOf(g.host_x_tokens, g.host_x_tokens + g.host_both_tokens, [&](double x) {
    const double h_max = in.rates.host_attention_bytes_per_s > 0 ? movable - x : 0;
    return MinimumOf(0, h_max, [&](double h) {
      GroupSplit s;
      s.carried_x_tokens = x;
      s.host_attended_tokens = h;
      s.carried_kv_tokens = movable - x - h;
      s.resident_x_tokens = g.resident_x_tokens;
      return EvaluateSplit(in, {s}).step_s;
    });
  });
}

TEST(SplitProblem, EqualsBruteForceOnTenThousandRandomProblems) {
#ifdef __SANITIZE_THREAD__
  constexpr int kProblems = 200;  // no thread here has anything to race with, and each search takes its time
#else
  constexpr int kProblems = 10'000;
#endif
  std::mt19937_64 random(20250101);
  for (int i = 0; i < kProblems; ++i) {
    SplitInputs in = RandomCarry(random, 1, i % 2 == 0);
    if (i % 5 == 4) in.mode = SplitMode::kSerial;
    const auto solution = SolveSplit(in);
    ASSERT_TRUE(solution.ok()) << i << ": " << solution.status();
    const double best = SearchOneGroup(in);
    ASSERT_NEAR(solution->step_s, best, 1e-5 * best) << "problem " << i;
  }
}

TEST(SplitProblem, TwoGroupsAreNoWorseThanAnySampledSplit) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> unit(0, 1);
  for (int i = 0; i < 300; ++i) {
    const SplitInputs in = RandomCarry(random, 2, false);
    const auto solution = SolveSplit(in);
    ASSERT_TRUE(solution.ok()) << solution.status();
    for (int j = 0; j < 200; ++j) {
      std::vector<GroupSplit> sampled;
      for (const LayerGroup& g : in.groups) {
        GroupSplit s;
        s.carried_x_tokens = g.host_x_tokens + unit(random) * g.host_both_tokens;
        s.carried_kv_tokens = g.host_kv_tokens + g.host_x_tokens + g.host_both_tokens - s.carried_x_tokens;
        s.resident_x_tokens = g.resident_x_tokens;
        sampled.push_back(s);
      }
      ASSERT_LE(solution->step_s, EvaluateSplit(in, sampled).step_s * (1 + 1e-6)) << i;
    }
  }
}

TEST(SplitProblem, APlacementIsNoWorseThanAnySampledOne) {
  std::mt19937_64 random(8);
  std::uniform_real_distribution<double> unit(0, 1);
  int compared = 0;
  for (int i = 0; i < 300; ++i) {
    SplitInputs in = RandomCarry(random, 1, false);
    const LayerGroup& g = in.groups[0];
    const double tokens =
        g.host_kv_tokens + g.host_x_tokens + g.host_both_tokens + g.resident_kv_tokens + g.resident_x_tokens;
    const double kv_bytes = g.n_layers * tokens * in.beta_bytes;
    in.placement = PlacementBudget{kv_bytes * unit(random), kv_bytes * (0.3 + unit(random))};
    in.placement->stores_x = i % 4 != 0;
    const auto solution = SolveSplit(in);
    if (solution.status().code() == absl::StatusCode::kFailedPrecondition) continue;
    ASSERT_TRUE(solution.ok()) << solution.status();
    for (int j = 0; j < 300; ++j) {
      // Each token in one place and stored in the form that it needs there.
      double shares[4], sum = 0;
      for (double& share : shares) {
        const bool is_x = &share == &shares[1] || &share == &shares[3];
        const bool none = unit(random) < 0.3 || (is_x && !in.placement->stores_x);
        sum += share = none ? 0 : -std::log(unit(random));
      }
      if (sum == 0) continue;
      for (double& share : shares) share *= tokens / sum;
      GroupSplit s;
      s.carried_kv_tokens = shares[0];
      s.carried_x_tokens = shares[1];
      s.resident_kv_tokens = shares[2];
      s.resident_x_tokens = shares[3];
      const double device =
          g.n_layers * (s.resident_kv_tokens * in.beta_bytes + s.resident_x_tokens * in.chi_bytes);
      const double host =
          device + g.n_layers * (s.carried_kv_tokens * in.beta_bytes + s.carried_x_tokens * in.chi_bytes);
      if (device > in.placement->device_bytes || host > in.placement->host_bytes) continue;
      ++compared;
      ASSERT_LE(solution->step_s, EvaluateSplit(in, {s}).step_s * (1 + 1e-6)) << i;
    }
  }
  EXPECT_GT(compared, 5000);
}

SplitInputs Placement(double device_bytes, double host_bytes) {
  SplitInputs in = MultiHead(10'000, 1e-9);
  in.groups[0].linear_s = 1;  // nothing but compute binds, whatever lies where
  in.placement = PlacementBudget{device_bytes, host_bytes};
  return in;
}

TEST(SplitProblem, WhereAnythingWouldDoKeysAndValuesAreResidentAndNotX) {
  for (const bool stores_x : {true, false}) {
    SplitInputs in = Placement(1e13, 1e13);
    in.rates.rebuild.pieces = {{0, 1e-15}};
    in.placement->stores_x = stores_x;
    const auto solution = SolveSplit(in);
    ASSERT_TRUE(solution.ok()) << solution.status();
    EXPECT_NEAR(solution->groups[0].resident_kv_tokens, 10'000, 1e-3);
    EXPECT_EQ(solution->groups[0].resident_x_tokens, 0);
  }
}

TEST(SplitProblem, XThatIsNotStoredIsNowhere) {
  SplitInputs in = Placement(1e6, 1e13);
  in.placement->stores_x = false;
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok()) << solution.status();
  const GroupSplit& s = solution->groups[0];
  EXPECT_EQ(s.carried_x_tokens + s.resident_x_tokens + s.host_x_tokens + s.host_both_tokens, 0);
  in.mode = SplitMode::kRebuild;
  EXPECT_EQ(SolveSplit(in).status().code(), absl::StatusCode::kFailedPrecondition);
}

// What cannot be placed is refused with a pool that is enough for the mode, and that is no larger than it
// must be where nothing can be resident instead.
TEST(SplitProblem, APoolThatIsTooSmallForTheModeIsRefusedWithOneThatWorks) {
  for (const SplitMode mode :
       {SplitMode::kAuto, SplitMode::kSerial, SplitMode::kTransfer, SplitMode::kRebuild, SplitMode::kFixed}) {
    SplitInputs in = Placement(0, 0);
    in.mode = mode;
    in.fixed_fraction = 0.25;
    const double enough = 32 * 10'000 * HostTokenBytes(in, /*stores_x=*/true);
    in.placement->host_bytes = enough * 1.0001;
    EXPECT_TRUE(SolveSplit(in).ok()) << static_cast<int>(mode) << SolveSplit(in).status();
    in.placement->host_bytes = enough * 0.999;
    const absl::Status refused = SolveSplit(in).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_THAT(std::string(refused.message()),
                testing::HasSubstr(FormatExactBytes(static_cast<int64_t>(enough)) + " would"));
  }
}

TEST(SplitProblem, MemoryIsCountedAsWholeSlotsAreTaken) {
  SplitInputs in = Placement(0, 1e13);
  in.chi_bytes = 0.375 * in.beta_bytes;
  in.stored_chi_bytes = 0.5 * in.beta_bytes;
  in.groups[0].linear_s = 0;
  in.placement->device_bytes = 32 * 10'000 * 0.4 * in.beta_bytes;  // all of X's bytes, not all of its slots
  in.rates.link_in_bytes_per_s = 1e6;
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok()) << solution.status();
  const GroupSplit& s = solution->groups[0];
  EXPECT_LE(s.resident_kv_tokens * in.beta_bytes + s.resident_x_tokens * in.stored_chi_bytes,
            10'000 * 0.4 * in.beta_bytes * (1 + 1e-6));
  EXPECT_GT(s.resident_x_tokens, 5'000);
}

// Llama-3-8B's shape: nothing is gained by X, and its launches cost where nothing is rebuilt.
TEST(SplitProblem, NothingIsRebuiltForTheSakeOfALaunchThatIsNotPaidThen) {
  SplitInputs in = MultiHead(512, 2.5e-8);
  in.chi_bytes = 2 * in.beta_bytes;
  in.rates.rebuild.pieces = {{13.9e-6, 5.7e-8}};
  in.groups[0].linear_s = 185e-6;
  const auto carry = SolveSplit(in);
  ASSERT_TRUE(carry.ok());
  EXPECT_EQ(carry->groups[0].carried_x_tokens, 0);
  EXPECT_NEAR(carry->step_s, 32 * 185e-6, 1e-9);
  in.placement = PlacementBudget{1e13, 1e13};
  const auto placed = SolveSplit(in);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->groups[0].resident_x_tokens + placed->groups[0].carried_x_tokens, 0);
  EXPECT_NEAR(placed->step_s, 32 * 185e-6, 1e-9);
}

TEST(SplitProblem, SerialClosedFormOfThePaper) {
  // Without the linear part x/N = 1 / (1 + d*B/P): rebuilding x takes as long as carrying the rest.
  const double d_b_over_p = 0.31;
  SplitInputs in = MultiHead(100'000, 0);
  in.rates.rebuild.pieces[0].per_token_s = in.beta_bytes / in.rates.link_in_bytes_per_s * d_b_over_p;
  in.groups[0].linear_s = 1e3;  // X hides behind it
  in.mode = SplitMode::kSerial;
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_NEAR(solution->groups[0].carried_x_tokens / 100'000, 1 / (1 + d_b_over_p), 1e-5);
}

TEST(SplitProblem, PipelinedIsTwiceAsFastAsTransferWhereComputeIsFree) {
  SplitInputs in = MultiHead(100'000, 1e-12);
  const auto best = SolveSplit(in);
  in.mode = SplitMode::kTransfer;
  const auto transfer = SolveSplit(in);
  ASSERT_TRUE(best.ok() && transfer.ok());
  EXPECT_NEAR(transfer->step_s / best->step_s, 2.0, 1e-6);
  EXPECT_EQ(transfer->groups[0].carried_x_tokens, 0);
  EXPECT_EQ(best->binding, Resource::kLinkIn);
}

TEST(SplitProblem, GroupedQueryModelsFindTransferUnaided) {
  SplitInputs in = MultiHead(100'000, 1e-12);
  in.beta_bytes = 4096;  // chi = 2 * beta
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok());
  EXPECT_EQ(solution->groups[0].carried_x_tokens, 0);
}

TEST(SplitProblem, BothRowAndColumnOfTheMachineBalance) {
  // Rebuild as costly as the link: at the optimum link and compute finish together.
  SplitInputs in = MultiHead(10'000, 0);
  in.rates.rebuild.pieces[0].per_token_s = in.beta_bytes / in.rates.link_in_bytes_per_s;
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok());
  EXPECT_NEAR(solution->resource_s[static_cast<int>(Resource::kLinkIn)],
              solution->resource_s[static_cast<int>(Resource::kCompute)], 1e-6 * solution->step_s);
}

TEST(SplitProblem, PlacementPrefersResidentXWhereComputeHasSlack) {
  SplitInputs in = MultiHead(100'000, 1e-12);
  in.placement = PlacementBudget{32 * 20'000 * in.beta_bytes, 1e18};
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_NEAR(solution->groups[0].resident_x_tokens, 40'000, 1);
  EXPECT_NEAR(solution->groups[0].resident_kv_tokens, 0, 1);
}

TEST(SplitProblem, PlacementStoresWhatHostMemoryAllows) {
  SplitInputs in = MultiHead(100'000, 1e-12);
  in.placement = PlacementBudget{0, 32 * 100'000 * (in.chi_bytes + 0.25 * in.beta_bytes)};
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok()) << solution.status();
  const GroupSplit& s = solution->groups[0];
  const double bytes = 32 * (s.host_kv_tokens * in.beta_bytes + s.host_x_tokens * in.chi_bytes +
                             s.host_both_tokens * (in.beta_bytes + in.chi_bytes));
  EXPECT_LE(bytes, in.placement->host_bytes * (1 + 1e-6));
  EXPECT_NEAR(s.host_kv_tokens + s.host_x_tokens + s.host_both_tokens, 100'000, 1);
}

TEST(SplitProblem, PlacementThatCannotFitSaysWhatWould) {
  SplitInputs in = MultiHead(100'000, 1e-12);
  in.placement = PlacementBudget{0, 1e6};
  const auto solution = SolveSplit(in);
  EXPECT_EQ(solution.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(solution.status().message().find("24.4 GiB"), absl::string_view::npos) << solution.status();
}

TEST(SplitProblem, PlacementObeysTheBaselines) {
  SplitInputs in = MultiHead(100'000, 1e-8);
  in.placement = PlacementBudget{0, 1e18};
  in.mode = SplitMode::kRebuild;
  EXPECT_NEAR(SolveSplit(in)->groups[0].carried_x_tokens, 100'000, 1e-3);
  in.mode = SplitMode::kTransfer;
  EXPECT_NEAR(SolveSplit(in)->groups[0].carried_kv_tokens, 100'000, 1e-3);
  in.mode = SplitMode::kFixed;
  in.fixed_fraction = 0.25;
  EXPECT_NEAR(SolveSplit(in)->groups[0].carried_x_tokens, 25'000, 1e-3);
}

TEST(SplitProblem, PoisonNeverReachesTheSolver) {
  const double poison[] = {std::nan(""), std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity(), -1.0, 1e300};
  const std::vector<std::function<double&(SplitInputs&)>> fields = {
      [](SplitInputs& in) -> double& { return in.beta_bytes; },
      [](SplitInputs& in) -> double& { return in.chi_bytes; },
      [](SplitInputs& in) -> double& { return in.head_s; },
      [](SplitInputs& in) -> double& { return in.fixed_fraction; },
      [](SplitInputs& in) -> double& { return in.rates.link_in_bytes_per_s; },
      [](SplitInputs& in) -> double& { return in.rates.link_out_bytes_per_s; },
      [](SplitInputs& in) -> double& { return in.rates.link_both_bytes_per_s; },
      [](SplitInputs& in) -> double& { return in.rates.host_memory_bytes_per_s; },
      [](SplitInputs& in) -> double& { return in.rates.compute_slowdown_by_link; },
      [](SplitInputs& in) -> double& { return in.rates.host_attention_bytes_per_s; },
      [](SplitInputs& in) -> double& { return in.rates.host_attention_fixed_s; },
      [](SplitInputs& in) -> double& { return in.rates.rebuild.pieces[0].per_token_s; },
      [](SplitInputs& in) -> double& { return in.groups[0].resident_kv_tokens; },
      [](SplitInputs& in) -> double& { return in.groups[0].resident_x_tokens; },
      [](SplitInputs& in) -> double& { return in.groups[0].host_kv_tokens; },
      [](SplitInputs& in) -> double& { return in.groups[0].host_x_tokens; },
      [](SplitInputs& in) -> double& { return in.groups[0].host_both_tokens; },
      [](SplitInputs& in) -> double& { return in.groups[0].linear_s; },
      [](SplitInputs& in) -> double& { return in.groups[0].attention_s; },
      [](SplitInputs& in) -> double& { return in.groups[0].weight_bytes; },
      [](SplitInputs& in) -> double& { return in.groups[0].store_bytes; },
      [](SplitInputs& in) -> double& { return in.placement->device_bytes; },
      [](SplitInputs& in) -> double& { return in.placement->host_bytes; },
  };
  for (size_t f = 0; f < fields.size(); ++f) {
    for (const double value : poison) {
      SplitInputs in = MultiHead(1000, 1e-9);
      in.placement = PlacementBudget{1e9, 1e12};
      ASSERT_TRUE(SolveSplit(in).ok());
      fields[f](in) = value;
      EXPECT_EQ(SolveSplit(in).status().code(), absl::StatusCode::kInvalidArgument) << f << " " << value;
    }
  }
  SplitInputs in = MultiHead(1000, 1e-9);
  in.groups.clear();
  EXPECT_FALSE(SolveSplit(in).ok());
  in = MultiHead(1000, 1e-9);
  in.rates.rebuild.pieces.clear();
  EXPECT_FALSE(SolveSplit(in).ok());
}

TEST(SplitProblem, ExtremeButValidNumbersStillReturn) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 2000; ++i) {
    SplitInputs in = RandomCarry(random, 1 + static_cast<int>(random() % 3), random() % 2 == 0);
    const double huge[] = {0, 1, 1e-300, 1e12};
    in.groups[0].host_both_tokens = huge[random() % 4];
    in.groups[0].host_kv_tokens = huge[random() % 4];
    in.groups[0].linear_s = random() % 2 == 0 ? 0 : 1e6;
    in.rates.link_in_bytes_per_s = random() % 2 == 0 ? 1 : 1e18;
    if (random() % 2 == 0) in.placement = PlacementBudget{Log(random, 1, 1e18), Log(random, 1, 1e18)};
    const auto solution = SolveSplit(in);
    if (solution.ok()) {
      EXPECT_TRUE(std::isfinite(solution->step_s));
    }
  }
}

// Any double at all: its bits are drawn, so that NaNs, infinities, subnormal and huge numbers come up.
double AnyDouble(std::mt19937_64& random) {
  const double special[] = {std::nan(""),
                            std::numeric_limits<double>::infinity(),
                            -std::numeric_limits<double>::infinity(),
                            std::numeric_limits<double>::denorm_min(),
                            std::numeric_limits<double>::min(),
                            std::numeric_limits<double>::max(),
                            -std::numeric_limits<double>::denorm_min(),
                            -0.0,
                            0.0,
                            -1.0,
                            1e-310,
                            1e12,
                            1e18};
  const uint64_t bits = random();
  if (bits % 3 == 0) return special[(bits >> 8) % std::size(special)];
  double value;
  static_assert(sizeof(value) == sizeof(bits));
  std::memcpy(&value, &bits, sizeof(value));
  return bits % 3 == 1 ? value : Log(random, 1e-12, 1e12);
}

TEST(SplitProblem, ArbitraryNumbersAreRefusedOrGiveAFiniteAnswer) {
  std::mt19937_64 random(99);
  int solved = 0, refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    SplitInputs in = RandomCarry(random, 1 + static_cast<int>(random() % 2), random() % 2 == 0);
    in.mode = static_cast<SplitMode>(random() % 5);
    in.fixed_fraction = 0.5;
    if (random() % 2 == 0) in.placement = PlacementBudget{1e12, 1e15, 1e6, 1e6};
    std::vector<double*> fields = {&in.fixed_fraction,
                                   &in.beta_bytes,
                                   &in.chi_bytes,
                                   &in.head_s,
                                   &in.rates.link_in_bytes_per_s,
                                   &in.rates.link_out_bytes_per_s,
                                   &in.rates.link_both_bytes_per_s,
                                   &in.rates.host_memory_bytes_per_s,
                                   &in.rates.host_attention_bytes_per_s,
                                   &in.rates.host_attention_fixed_s,
                                   &in.rates.rebuild.pieces[0].fixed_s,
                                   &in.rates.rebuild.pieces[0].per_token_s};
    for (LayerGroup& g : in.groups) {
      fields.insert(fields.end(),
                    {&g.resident_kv_tokens, &g.resident_x_tokens, &g.host_kv_tokens, &g.host_x_tokens,
                     &g.host_both_tokens, &g.linear_s, &g.attention_s, &g.weight_bytes, &g.store_bytes});
    }
    if (in.placement.has_value()) {
      in.placement->resident_fraction = 0.5;
      fields.insert(fields.end(), {&in.placement->device_bytes, &in.placement->host_bytes,
                                   &in.placement->device_fixed_bytes, &in.placement->host_fixed_bytes,
                                   &*in.placement->resident_fraction});
    }
    for (uint64_t n = 1 + random() % 3; n > 0; --n) *fields[random() % fields.size()] = AnyDouble(random);
    const auto solution = SolveSplit(in);
    if (!solution.ok()) {
      ++refused;
      continue;
    }
    ++solved;
    ASSERT_TRUE(ValidateSplitInputs(in).ok()) << i;
    ASSERT_TRUE(std::isfinite(solution->step_s) && solution->step_s >= 0) << i;
    for (const GroupSplit& s : solution->groups) {
      for (const double tokens : {s.carried_kv_tokens, s.carried_x_tokens, s.host_attended_tokens,
                                  s.resident_kv_tokens, s.resident_x_tokens}) {
        ASSERT_TRUE(std::isfinite(tokens) && tokens >= 0) << i;
      }
    }
  }
  EXPECT_GT(solved, 1000);
  EXPECT_GT(refused, 1000);
}

TEST(SplitProblem, SubnormalNumbersAreTakenAsNothing) {
  SplitInputs in = MultiHead(1000, 1e-9);
  const auto plain = SolveSplit(in);
  in.groups[0].host_kv_tokens = std::numeric_limits<double>::denorm_min();
  in.groups[0].linear_s = 1e-310;
  in.rates.rebuild.pieces.push_back({0, std::numeric_limits<double>::denorm_min()});
  const auto subnormal = SolveSplit(in);
  ASSERT_TRUE(plain.ok() && subnormal.ok()) << subnormal.status();
  EXPECT_DOUBLE_EQ(subnormal->step_s, plain->step_s);
}

TEST(SplitProblem, WhatIsFixedInMemoryIsNotPlaced) {
  SplitInputs in = MultiHead(100'000, 1e-12);
  const double token_bytes = 32 * in.beta_bytes;
  in.placement = PlacementBudget{50'000 * token_bytes, 1e18, 40'000 * token_bytes, 0};
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_NEAR(solution->groups[0].resident_x_tokens, 20'000, 1);
  in.placement->device_fixed_bytes = 60'000 * token_bytes;
  const auto refused = SolveSplit(in);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.status().message().find("29.3 GiB"), absl::string_view::npos) << refused.status();
}

TEST(SplitProblem, AFixedShareOfResidentTokensIsPlacedAsKv) {
  SplitInputs in = MultiHead(100'000, 1e-12);
  in.placement = PlacementBudget{1e15, 1e18};
  in.placement->resident_fraction = 0.5;
  const auto solution = SolveSplit(in);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_NEAR(solution->groups[0].resident_kv_tokens, 50'000, 1);
  EXPECT_EQ(solution->groups[0].resident_x_tokens, 0);
}

// The rows again by hand, as the design states them, at the solution of a problem in which all bind.
TEST(SplitProblem, EveryResourceIsWhatItsRowSays) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 500; ++i) {
    const SplitInputs in = RandomCarry(random, 1, true);
    const auto solution = SolveSplit(in);
    ASSERT_TRUE(solution.ok()) << solution.status();
    const LayerGroup& g = in.groups[0];
    const GroupSplit& s = solution->groups[0];
    const double k = s.carried_kv_tokens, x = s.carried_x_tokens, h = s.host_attended_tokens;
    const double layers = g.n_layers;
    const double in_bytes = layers * (k * in.beta_bytes + x * in.chi_bytes + g.weight_bytes);
    const double out_bytes = layers * g.store_bytes;
    const double rebuild_s = std::max(0.0, in.rates.rebuild.At(x + g.resident_x_tokens));
    const double link_s = in_bytes / in.rates.link_in_bytes_per_s;
    double compute_s = in.head_s + layers * (g.linear_s + g.attention_s + rebuild_s);
    if (compute_s > link_s) compute_s = link_s + (compute_s - link_s) / in.rates.compute_slowdown_by_link;
    const double expected[] = {
        link_s,
        out_bytes / in.rates.link_out_bytes_per_s,
        (in_bytes + out_bytes) / in.rates.link_both_bytes_per_s,
        compute_s,
        layers * (h * in.beta_bytes / in.rates.host_attention_bytes_per_s + in.rates.host_attention_fixed_s),
        (in_bytes + layers * h * in.beta_bytes) / in.rates.host_memory_bytes_per_s};
    for (size_t r = 0; r < std::size(expected); ++r) {
      ASSERT_NEAR(solution->resource_s[r], expected[r], 1e-9 * expected[r]) << r;
    }
    ASSERT_EQ(solution->step_s,
              *std::max_element(std::begin(solution->resource_s), solution->resource_s.end()));
    ASSERT_GE(x, g.host_x_tokens * (1 - 1e-6));
    ASSERT_LE(x, (g.host_x_tokens + g.host_both_tokens) * (1 + 1e-6) + 1e-6);
    ASSERT_LE(k + h, (g.host_kv_tokens + g.host_both_tokens) * (1 + 1e-6) + 1e-6);
  }
}

TEST(SplitProblem, ComputeThatOutlastsTheLinkGoesOnAtRest) {
  // 2 s of compute beside a busy link, of which 1 s is left when the link is done after 1 s.
  SplitInputs in = MultiHead(1000, 1e-12);
  in.mode = SplitMode::kTransfer;
  LayerGroup& group = in.groups[0];
  in.rates.link_in_bytes_per_s = group.n_layers * 1000 * in.beta_bytes;
  in.head_s = 2;
  EXPECT_NEAR(SolveSplit(in)->step_s, 2, 1e-6);
  in.rates.compute_slowdown_by_link = 1.25;
  EXPECT_NEAR(SolveSplit(in)->step_s, 1.8, 1e-6);
  in.head_s = 0.9;
  EXPECT_NEAR(SolveSplit(in)->step_s, 1, 1e-6) << "the link's own time";
  EXPECT_NEAR(SolveSplit(in)->resource_s[static_cast<size_t>(exec::Resource::kCompute)], 0.9, 1e-6);
}

TEST(SplitProblem, FixedFractionIsObeyedWithinTheStoredForms) {
  SplitInputs in = MultiHead(1000, 1e-9);
  in.mode = SplitMode::kFixed;
  in.fixed_fraction = 0.3;
  EXPECT_NEAR(SolveSplit(in)->groups[0].carried_x_tokens, 300, 1e-6);
  in.groups[0].host_both_tokens = 100;
  in.groups[0].host_kv_tokens = 900;
  EXPECT_NEAR(SolveSplit(in)->groups[0].carried_x_tokens, 100, 1e-6);
  in.mode = SplitMode::kRebuild;
  EXPECT_NEAR(SolveSplit(in)->groups[0].carried_x_tokens, 100, 1e-6);
}

}  // namespace
}  // namespace spillway::scheduler
