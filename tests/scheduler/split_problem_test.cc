#include "scheduler/split_problem.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

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
  const ConvexCost::Piece& first = in.rates.rebuild.pieces[0];
  in.rates.rebuild.pieces.push_back({-1000 * first.per_token_s, first.per_token_s * 1.5});
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
