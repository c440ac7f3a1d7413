#include "engine/model/fingerprint.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

std::string FingerprintOf(const std::string& bytes, int n_threads = 1,
                          const std::string& name = "tiny.gguf") {
  const auto file = GgufFile::Parse(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), name);
  if (!file.ok()) return file.status().ToString();
  const auto fingerprint = Fingerprint(*file, n_threads);
  return fingerprint.ok() ? ToHex(*fingerprint) : fingerprint.status().ToString();
}

// Kept with cached blocks, so it may not drift: sha256(label, size as 8 bytes, sha256 of the only piece).
TEST(Fingerprint, OfAKnownFileIsKnown) {
  const std::string bytes = fakes::GgufWriter().Uint32("k", 1).Bytes();
  EXPECT_EQ(FingerprintOf(bytes), "251bfe0cbe931e2ab5c5b100064e480b3cdae51df1268036d402cbc61da53384");
}

TEST(Fingerprint, OneBitOfTheWeightsChangesIt) {
  std::string bytes = fakes::TinyLlamaBytes({});
  const std::string before = FingerprintOf(bytes);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  EXPECT_NE(FingerprintOf(bytes), before);
}

TEST(Fingerprint, MetadataChangesIt) {
  EXPECT_NE(FingerprintOf(fakes::TinyLlamaBytes({.rope_theta = 10000})),
            FingerprintOf(fakes::TinyLlamaBytes({.rope_theta = 20000})));
}

TEST(Fingerprint, NeitherNameNorThreadsChangeIt) {
  // Several pieces of 16 MiB.
  const std::string bytes = fakes::GgufWriter().Uint32("k", 1).Bytes() + std::string(40 << 20, 'x');
  const std::string alone = FingerprintOf(bytes, 1);
  EXPECT_EQ(alone.size(), 64u);
  EXPECT_EQ(FingerprintOf(bytes, 7, "elsewhere.gguf"), alone);
}

TEST(Fingerprint, PiecesDoNotCommute) {
  const std::string head = fakes::GgufWriter().Uint32("k", 1).Bytes();
  std::string first(16 << 20, 'x');
  first.replace(0, head.size(), head);
  const std::string a(16 << 20, 'a');
  const std::string b(16 << 20, 'b');
  EXPECT_NE(FingerprintOf(first + a + b), FingerprintOf(first + b + a));
}

}  // namespace
}  // namespace spillway::model
