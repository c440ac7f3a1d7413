#include "engine/kv/block_hasher.h"

#include <numeric>
#include <vector>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

TEST(BlockHasherTest, HashesAreChainedSha256) {
  BlockHasher hasher(/*block_tokens=*/16);
  std::vector<text::TokenId> tokens(16);
  std::iota(tokens.begin(), tokens.end(), 1);
  BlockHash parent;
  std::iota(parent.begin(), parent.end(), 0);
  const auto hex = [](const BlockHash& hash) {
    return absl::BytesToHexString({reinterpret_cast<const char*>(hash.data()), hash.size()});
  };
  // python3: sha256(bytes(range(32)) + struct.pack("<16i", *range(1, 17))).hexdigest()
  EXPECT_EQ(hex(hasher.ChainHash(parent, tokens)),
            "0fcb5929749e1f6cbecd153f041af6abe76521ff0dd97f5fe12e85110adbb183");
  // python3: sha256(struct.pack("<Q", 3) + b"abc" + b"de").hexdigest()
  const std::vector<uint8_t> fingerprint = {'a', 'b', 'c'};
  const std::vector<uint8_t> salt = {'d', 'e'};
  EXPECT_EQ(hex(hasher.RootHash(fingerprint, salt)),
            "8ad0fe6e4559dd04bced130e62281ddabe8da68156f3b01deec12eb0a27c9786");
}

TEST(BlockHasherTest, RootsOfOtherModelsAndTenantsDiffer) {
  BlockHasher hasher(/*block_tokens=*/16);
  const std::vector<uint8_t> ab = {'a', 'b'}, c = {'c'}, a = {'a'}, bc = {'b', 'c'};
  EXPECT_NE(hasher.RootHash(ab, c), hasher.RootHash(a, bc));
  EXPECT_NE(hasher.RootHash(ab, {}), hasher.RootHash(ab, c));
}

}  // namespace
}  // namespace spillway::kv
