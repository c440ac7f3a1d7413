#include "tests/engine/exec/golden_logits.h"

#include <cstdint>
#include <fstream>
#include <tuple>

#include "gtest/gtest.h"

namespace spillway::exec {

GoldenLogits ReadGoldenLogits(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  int32_t sizes[3] = {0, 0, 0};
  file.read(reinterpret_cast<char*>(sizes), sizeof(sizes));
  const auto [prompts, tokens, vocab] = std::tie(sizes[0], sizes[1], sizes[2]);
  GoldenLogits golden;
  golden.ids.assign(static_cast<size_t>(prompts), std::vector<text::TokenId>(static_cast<size_t>(tokens)));
  for (auto& ids : golden.ids) file.read(reinterpret_cast<char*>(ids.data()), int64_t{tokens} * 4);
  golden.logits.assign(static_cast<size_t>(prompts),
                       std::vector<std::vector<float>>(static_cast<size_t>(tokens),
                                                       std::vector<float>(static_cast<size_t>(vocab))));
  for (auto& prompt : golden.logits) {
    for (auto& row : prompt) file.read(reinterpret_cast<char*>(row.data()), int64_t{vocab} * 4);
  }
  EXPECT_TRUE(file.good()) << path;
  return golden;
}

}  // namespace spillway::exec
