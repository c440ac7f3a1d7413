// The profiles of examples/profiles: public figures that can be planned with.
#include <string>

#include "gtest/gtest.h"
#include "profiler/machine_profile.h"
#include "profiler/profile_text.h"

namespace spillway::profiler {
namespace {

struct Example {
  const char* file;
  double rebuild_over_carry;  // d*B/P
};

class ExampleProfiles : public ::testing::TestWithParam<Example> {};

TEST_P(ExampleProfiles, LoadsIsMarkedAndKeepsTheRatioOfRebuildToCarry) {
  const auto profile = LoadProfile(std::string("examples/profiles/") + GetParam().file);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->source, ProfileSource::kPublicFigures);
  const double rebuild_s = profile->rebuild.pieces.back().per_unit_s;
  EXPECT_NEAR(rebuild_s * profile->copy_in.bytes_per_s / profile->model.beta_bytes(),
              GetParam().rebuild_over_carry, 0.02);
  EXPECT_NE(FormatProfile(*profile).find("public figures"), std::string::npos);
  // Another machine's: a daemon would refuse it.
  EXPECT_FALSE(CheckProfileMatches(*profile, {"x", "processor: mine", "y", "layers: 1"}).ok());
}

INSTANTIATE_TEST_SUITE_P(All, ExampleProfiles,
                         ::testing::Values(Example{"a100-pcie4-opt-6.7b.json", 0.47},
                                           Example{"a100-pcie4-llama-3-8b.json", 0.47},
                                           Example{"h100-pcie5-opt-6.7b.json", 0.31},
                                           Example{"h100-pcie5-llama-3-8b.json", 0.31}));

TEST(ExampleProfiles, WeightsAreThoseOfTheModels) {
  const auto opt = LoadProfile("examples/profiles/a100-pcie4-opt-6.7b.json");
  const auto llama = LoadProfile("examples/profiles/h100-pcie5-llama-3-8b.json");
  ASSERT_TRUE(opt.ok() && llama.ok());
  EXPECT_NEAR(opt->model.weight_bytes, 2 * 6.66e9, 0.02e9) << "6.66 billion parameters";
  EXPECT_NEAR(llama->model.weight_bytes, 2 * 8.03e9, 0.02e9) << "8.03 billion";
  EXPECT_EQ(opt->model.context_length, 2048);
  EXPECT_EQ(llama->model.context_length, 8192);
  EXPECT_EQ(opt->model.chi_bytes() / opt->model.beta_bytes(), 0.5);
  EXPECT_EQ(llama->model.chi_bytes() / llama->model.beta_bytes(), 2);
}

}  // namespace
}  // namespace spillway::profiler
