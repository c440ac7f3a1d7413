// A file is hostile until proven otherwise: nothing here may crash, read outside the bytes or allocate what a
// file merely claims. Bytes end at an unreadable page.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/model/model_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/counted_allocations.h"
#include "tests/fakes/encode.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/guarded_bytes.h"

// tests/fuzz/gguf_fuzz.cc, which checks everything that is read.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace spillway::model {
namespace {

using fakes::GgufWriter;
using fakes::Le;
using fakes::LeString;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kStringType = 8;
constexpr uint32_t kArrayType = 9;

absl::Status ReadAll(absl::Span<const uint8_t> bytes) {
  auto file = GgufFile::Parse(bytes, "hostile.gguf");
  if (!file.ok()) return std::move(file).status();
  // Every byte that a view promises is there.
  uint64_t sum = 0;
  for (const device::TensorView& tensor : file->tensors()) {
    sum += tensor.data[0];
    sum += tensor.data[tensor.size_bytes - 1];
  }
  EXPECT_LT(sum, UINT64_MAX);
  const auto vocabulary = VocabularyFromGguf(*file);
  const auto config = ConfigFromGguf(*file);
  return config.ok() ? vocabulary.status() : config.status();
}

absl::Status Refusal(const std::string& bytes) {
  fakes::GuardedBytes guarded(bytes);
  return GgufFile::Parse(guarded.All(), "hostile.gguf").status();
}

// One line that says where, what and what to do.
void ExpectRefused(const std::string& bytes, const std::string& what,
                   absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const absl::Status status = Refusal(bytes);
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(MatchesRegex("hostile.gguf: (byte [0-9]+: )?[ -~]*; [ -~]+"), HasSubstr(what)));
}

std::string TinyBytes() {
  return fakes::TinyLlamaBytes(
      {.n_layers = 1, .d_model = 8, .n_heads = 2, .n_kv_heads = 1, .d_ff = 8, .vocab_size = 259});
}

size_t TablesEnd(const std::string& bytes) {
  const auto file = GgufFile::Parse(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "tiny.gguf");
  return static_cast<size_t>(file->tensors().front().data - file->bytes().data());
}

TEST(HostileGguf, CutAnywhereInTheTablesIsRefused) {
  const std::string bytes = TinyBytes();
  fakes::GuardedBytes guarded(bytes);
  ASSERT_TRUE(ReadAll(guarded.All()).ok());
  const size_t tables_end = TablesEnd(bytes);
  for (size_t size = 0; size < tables_end; ++size) {
    const absl::Status status = GgufFile::Parse(guarded.Prefix(size), "hostile.gguf").status();
    ASSERT_FALSE(status.ok()) << size;
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    ASSERT_THAT(std::string(status.message()),
                AllOf(HasSubstr("hostile.gguf: byte "), HasSubstr("cut short")));
  }
}

TEST(HostileGguf, CutAnywhereInTheDataIsRefused) {
  const std::string bytes = TinyBytes();
  fakes::GuardedBytes guarded(bytes);
  for (size_t size = TablesEnd(bytes); size < bytes.size(); size += 13) {
    const absl::Status status = GgufFile::Parse(guarded.Prefix(size), "hostile.gguf").status();
    ASSERT_THAT(std::string(status.message()), HasSubstr("reach beyond the file")) << size;
  }
  EXPECT_THAT(std::string(GgufFile::Parse(guarded.Prefix(bytes.size() - 1), "x").status().message()),
              HasSubstr("reach beyond the file"));
}

TEST(HostileGguf, FlippedBitsNeverCrash) {
  std::string bytes = TinyBytes();
  const size_t tables_end = TablesEnd(bytes);
  int refused = 0;
  for (size_t i = 0; i < tables_end; ++i) {
    // Low, middle and high: small changes of counts and offsets, other types, huge numbers.
    for (const int bit : {0, 4, 7}) {
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
      fakes::GuardedBytes guarded(bytes);
      refused += ReadAll(guarded.All()).ok() ? 0 : 1;
      bytes[i] = static_cast<char>(bytes[i] ^ (1 << bit));
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(HostileGguf, ForeignFilesAreNamed) {
  ExpectRefused("PK\3\4 this is a zip archive of some length", "no GGUF file");
  ExpectRefused(GgufWriter(1).Bytes(), "version 1 is not 2 or 3", absl::StatusCode::kUnimplemented);
  ExpectRefused(GgufWriter(4).Bytes(), "version 4 is not 2 or 3", absl::StatusCode::kUnimplemented);
  ExpectRefused(GgufWriter(0x03000000).Bytes(), "big endian", absl::StatusCode::kUnimplemented);
  ExpectRefused(GgufWriter(0x02000000).Bytes(), "big endian", absl::StatusCode::kUnimplemented);
}

TEST(HostileGguf, SplitModelIsNamed) {
  ExpectRefused(GgufWriter().Uint32("split.count", 3).Bytes(), "split over 3 files (split.count)",
                absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(Refusal(GgufWriter().Uint32("split.count", 1).Bytes()).ok());
}

// The fuzzer's seeds and whatever it has found.
TEST(HostileGguf, InputsOfTheFuzzerAreReplayed) {
  int replayed = 0;
  int models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SPILLWAY_FUZZ_CORPUS)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(in), {});
    fakes::GuardedBytes guarded(bytes);
    EXPECT_EQ(LLVMFuzzerTestOneInput(guarded.All().data(), guarded.All().size()), 0) << entry.path();
    ++replayed;
    models += ReadAll(guarded.All()).ok() ? 1 : 0;
  }
  EXPECT_GE(replayed, 2);
  EXPECT_GE(models, 2);  // the seeds are sound: from them the fuzzer reaches everything
}

// What a file claims but does not hold.
struct Lie {
  std::string name;
  std::string bytes;
  std::string what;
};

std::vector<Lie> LyingCounts() {
  const auto head = [](uint64_t tensors, uint64_t pairs) {
    return absl::StrCat("GGUF", Le(uint32_t{3}), Le(tensors), Le(pairs));
  };
  const std::string padding(4096, '\1');
  std::vector<Lie> lies;
  // 2^61 and 2^62 elements of eight and four bytes are 2^64 bytes: nothing, if the product wraps.
  for (const uint64_t count :
       {uint64_t{1} << 20, uint64_t{1} << 40, uint64_t{1} << 61, uint64_t{1} << 62, UINT64_MAX}) {
    lies.push_back({absl::StrCat("Tensors", count), head(count, 0) + padding, "tensor count"});
    lies.push_back({absl::StrCat("Pairs", count), head(0, count) + padding, "metadata count"});
    for (const uint32_t element : {0u, 6u, kStringType, kArrayType, 12u}) {
      lies.push_back({absl::StrCat("ArrayOf", element, "x", count),
                      GgufWriter().Raw("k", kArrayType, Le(element) + Le(count) + padding).Bytes(),
                      "metadata 'k'"});
    }
    lies.push_back({absl::StrCat("String", count),
                    GgufWriter().Raw("k", kStringType, Le(count) + padding).Bytes(),
                    "metadata 'k': a string of"});
    lies.push_back({absl::StrCat("Key", count), head(0, 1) + Le(count) + padding, "metadata key"});
    lies.push_back({absl::StrCat("TensorName", count), head(1, 0) + Le(count) + padding, "tensor name"});
    lies.push_back({absl::StrCat("Extent", count),
                    GgufWriter().TensorRow("w", {count, count}, kF32, 0).Bytes() + padding, "tensor 'w'"});
    lies.push_back({absl::StrCat("Offset", count),
                    GgufWriter().TensorRow("w", {8}, kF32, count & ~uint64_t{31}).Bytes() + padding,
                    "reach beyond the file"});
  }
  return lies;
}

class LyingCount : public ::testing::TestWithParam<Lie> {};

TEST_P(LyingCount, IsRefusedWithoutAllocatingForIt) {
  fakes::GuardedBytes guarded(GetParam().bytes);
  fakes::CountedAllocations::Reset();
  const absl::Status status = GgufFile::Parse(guarded.All(), "hostile.gguf").status();
  const auto allocated = fakes::CountedAllocations::Now();
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().what));
  EXPECT_GT(allocated.count, 0);  // the counter counts
  EXPECT_LT(allocated.total_bytes, 16 * 1024);
}

INSTANTIATE_TEST_SUITE_P(Files, LyingCount, ::testing::ValuesIn(LyingCounts()),
                         [](const auto& lie) { return lie.param.name; });

TEST(HostileGguf, AllocationStaysInProportionToTheFile) {
  const std::string bytes = TinyBytes();
  fakes::GuardedBytes guarded(bytes);
  fakes::CountedAllocations::Reset();
  ASSERT_TRUE(ReadAll(guarded.All()).ok());
  EXPECT_LT(fakes::CountedAllocations::Now().total_bytes, 32 * static_cast<int64_t>(bytes.size()));
}

TEST(HostileGguf, MoreTablesThanAnyModelHasIsRefused) {
  GgufWriter writer;
  for (uint32_t i = 0; i <= (1 << 16); ++i) writer.Raw(absl::StrCat("k", i), 0, "x");
  ExpectRefused(writer.Bytes(), "65537 entries, more than the 65536");
}

TEST(HostileGguf, DuplicatesAreRefused) {
  ExpectRefused(GgufWriter().Uint32("k", 1).Uint32("k", 2).Bytes(), "metadata 'k': the key appears twice");
  const auto data = fakes::Encode(device::Encoding::kF32, {{1.0f}});
  ExpectRefused(GgufWriter()
                    .Tensor("w", {1}, device::Encoding::kF32, data)
                    .Tensor("w", {1}, device::Encoding::kF32, data)
                    .Bytes(),
                "tensor 'w': the name appears twice");
}

TEST(HostileGguf, TensorsThatShareBytesAreRefused) {
  const std::string data(1024, 'x');
  ExpectRefused(GgufWriter().TensorRow("a", {64}, kF32, 0).TensorRow("b", {64}, kF32, 224).Bytes() + data,
                "tensor 'b': its data overlaps that of 'a'");
  ExpectRefused(GgufWriter().TensorRow("a", {64}, kF32, 0).TensorRow("b", {64}, kF32, 0).Bytes() + data,
                "overlaps");
  // Side by side, in any order, with gaps, is fine.
  EXPECT_TRUE(
      Refusal(GgufWriter().TensorRow("a", {64}, kF32, 512).TensorRow("b", {64}, kF32, 0).Bytes() + data)
          .ok());
}

TEST(HostileGguf, TensorTableIsChecked) {
  const std::string data(1024, 'x');
  ExpectRefused(GgufWriter().TensorRow("w", {64}, kF32, 16).Bytes() + data, "not a multiple of 32");
  ExpectRefused(GgufWriter().TensorRow("w", {64}, kF32, 800).Bytes() + data, "reach beyond the file");
  ExpectRefused(GgufWriter().TensorRow("w", {}, kF32, 0).Bytes() + data, "0 dimensions");
  ExpectRefused(GgufWriter().TensorRow("w", {1, 1, 1, 1, 1}, kF32, 0).Bytes() + data, "5 dimensions");
  ExpectRefused(GgufWriter().TensorRow("w", {4, 0}, kF32, 0).Bytes() + data, "extent 0 of dimension 1");
  ExpectRefused(GgufWriter().TensorRow("", {4}, kF32, 0).Bytes() + data, "1 to 64 bytes");
  ExpectRefused(GgufWriter().TensorRow(std::string(65, 'w'), {4}, kF32, 0).Bytes() + data, "1 to 64 bytes");
  // Two rows of half a block each.
  ExpectRefused(GgufWriter().TensorRow("w", {16, 2}, /*Q8_0*/ 8, 0).Bytes() + data,
                "do not divide into Q8_0 blocks");
  ExpectRefused(GgufWriter().TensorRow("w", {33}, /*Q8_0*/ 8, 0).Bytes() + data,
                "do not divide into Q8_0 blocks");
  // 2^62 elements of four bytes.
  ExpectRefused(GgufWriter().TensorRow("w", {uint64_t{1} << 31, uint64_t{1} << 31}, kF32, 0).Bytes() + data,
                "its size overflows");
}

TEST(HostileGguf, UnsupportedTensorTypeIsNamedWithWhatIsSupported) {
  const std::string data(1024, 'x');
  ExpectRefused(
      GgufWriter().TensorRow("w", {256}, 16, 0).Bytes() + data,
      "tensor 'w': type IQ2_XXS (16) is not supported; quantise the model to one of F32, F16, Q4_0, Q4_1, "
      "Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, BF16",
      absl::StatusCode::kUnimplemented);
  ExpectRefused(GgufWriter().TensorRow("w", {256}, 4, 0).Bytes() + data, "type 4 is not supported",
                absl::StatusCode::kUnimplemented);
  ExpectRefused(GgufWriter().TensorRow("w", {256}, UINT32_MAX, 0).Bytes() + data,
                "type 4294967295 is not supported", absl::StatusCode::kUnimplemented);
}

TEST(HostileGguf, MetadataIsChecked) {
  ExpectRefused(GgufWriter().Raw("k", 13, "12345678").Bytes(), "value type 13");
  ExpectRefused(GgufWriter().Raw("k", 7, "\2").Bytes(), "a bool is 0 or 1, not 2");
  ExpectRefused(
      GgufWriter().Raw("k", kArrayType, Le(uint32_t{7}) + Le(uint64_t{3}) + std::string("\1\0\7", 3)).Bytes(),
      "a bool is 0 or 1, not 7");
  ExpectRefused(GgufWriter().Uint32("", 1).Bytes(), "a key has 1 to 65535 bytes");
  ExpectRefused(GgufWriter().Uint32(std::string(65536, 'k'), 1).Bytes(), "a key has 1 to 65535 bytes");
  for (const uint32_t alignment : {0u, 1u, 24u, 1u << 21}) {
    ExpectRefused(GgufWriter().Uint32("general.alignment", alignment).Bytes(), "is not a power of two");
  }
  ExpectRefused(GgufWriter().String("general.alignment", "32").Bytes(), "found string, wanted an integer");
}

TEST(HostileGguf, DeeplyNestedArraysAreRefused) {
  const auto nested = [](int depth) {
    std::string bytes;
    for (int i = 0; i < depth; ++i) bytes += Le(kArrayType) + Le(uint64_t{1});
    return GgufWriter().Raw("k", kArrayType, bytes + Le(uint32_t{0}) + Le(uint64_t{1}) + "x").Bytes();
  };
  EXPECT_TRUE(Refusal(nested(3)).ok()) << Refusal(nested(3));
  ExpectRefused(nested(4), "nested deeper than 4");
  ExpectRefused(nested(100000), "nested deeper than 4");
}

// Names come from the file: they may not break the line or the terminal that an error is printed on.
TEST(HostileGguf, NamesInErrorsAreEscapedAndShort) {
  const std::string data(1024, 'x');
  ExpectRefused(GgufWriter().TensorRow("a\n\x1b[2J\xff", {4}, 99, 0).Bytes() + data, "'a\\n\\x1b[2J\\xff'",
                absl::StatusCode::kUnimplemented);
  const absl::Status status = Refusal(GgufWriter().Raw(std::string(60000, 'k'), 7, "\2").Bytes());
  EXPECT_LT(status.message().size(), 300u) << status;
}

}  // namespace
}  // namespace spillway::model
