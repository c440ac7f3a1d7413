// A mid-size model against what Transformers computed for it on this machine, where scripts/gpu-logits.py was
// run and SPILLWAY_MID_SIZE_MODEL names its folder: made there and not committed, because it is large.
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/exec/golden_logits.h"
#include "tests/engine/exec/tiny_engine.h"

namespace spillway::exec {
namespace {

TEST(MidSizeLogits, AreAsNearToExactOnesAsTransformersAre) {
  const char* folder = std::getenv("SPILLWAY_MID_SIZE_MODEL");
  if (folder == nullptr) GTEST_SKIP() << "set SPILLWAY_MID_SIZE_MODEL to what scripts/gpu-logits.py wrote";
  const GoldenLogits exact = ReadGoldenLogits(std::string(folder) + "/logits");
  const GoldenLogits rounded = ReadGoldenLogits(std::string(folder) + "/logits.bf16");
  ASSERT_FALSE(exact.ids.empty());
  ASSERT_EQ(exact.ids, rounded.ids);
  TinyEngineOptions options;
  options.dtype = device::DType::kBF16;
  options.max_item_segments = 2;
  for (const bool over_link : {false, true}) {
    if (over_link) options.link.emplace();
    TinyEngine engine(folder, options);
    for (size_t i = 0; i < exact.ids.size(); ++i) {
      const LogitDifference theirs = Difference(rounded.logits[i], exact.logits[i]);
      const LogitDifference ours = Difference(engine.LogitsOfAll(exact.ids[i]), exact.logits[i]);
      std::cout << (over_link ? "over a link: " : "") << "bf16 differs from f32 by rms " << ours.rms
                << " (at most " << ours.largest << "), Transformers' by " << theirs.rms << " ("
                << theirs.largest << ")\n";
      EXPECT_GT(theirs.rms, 0);
      EXPECT_LT(ours.rms, 1.5 * theirs.rms);
      EXPECT_LT(ours.largest, 2.5 * theirs.largest);
    }
  }
}

}  // namespace
}  // namespace spillway::exec
