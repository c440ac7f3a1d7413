#include "engine/model/safetensors.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/model/safetensors_bytes.h"

namespace spillway::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<SafetensorsFile> Parse(const std::string& bytes) {
  return SafetensorsFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
                                "dir/m.safetensors");
}

std::string ErrorOf(const std::string& bytes) {
  const auto file = Parse(bytes);
  EXPECT_FALSE(file.ok());
  return std::string(file.status().message());
}

TEST(Safetensors, TensorsAreFoundWhereTheirOffsetsSay) {
  const std::string bytes = SafetensorsBytes(R"({"__metadata__": {"format": "pt"},
                           "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
                           "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                           "i": {"dtype": "I64", "shape": [], "data_offsets": [20, 28]}})",
                                             std::string("01234567abcdefghijklABCDEFGH"));
  const auto file = Parse(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 3u);
  EXPECT_EQ(file->tensors()[0].view.name, "a");
  EXPECT_EQ(file->tensors()[0].view.encoding, device::Encoding::kF32);
  const SafetensorsFile::Tensor& b = file->tensors()[1];
  EXPECT_EQ(b.view.encoding, device::Encoding::kBF16);
  EXPECT_EQ(b.view.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(b.view.data, "abcdefghijkl", 12), 0);
  EXPECT_FALSE(file->tensors()[2].is_float);
}

TEST(Safetensors, AHeaderBeyondTheFileIsRefused) {
  EXPECT_THAT(ErrorOf("short"), HasSubstr("header length"));
  std::string bytes = SafetensorsBytes("{}", "");
  bytes[7] = '\x7f';
  EXPECT_THAT(ErrorOf(bytes),
              AllOf(HasSubstr("dir/m.safetensors: byte 0: header length"), HasSubstr("fetch")));
  bytes = SafetensorsBytes("{}", "");
  bytes[0] = 3;
  EXPECT_THAT(ErrorOf(bytes), HasSubstr("only 2 remain"));
}

TEST(Safetensors, AHeaderThatIsNoTableIsRefused) {
  for (const char* header : {"", "[]", "{", R"({"a": 1})", R"({"a": {}})"}) {
    EXPECT_FALSE(Parse(SafetensorsBytes(header, "")).ok()) << header;
  }
  EXPECT_THAT(ErrorOf(SafetensorsBytes(R"({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
                                           "a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})",
                                       "")),
              HasSubstr("there twice"));
}

// One tensor of F32, of four bytes of data.
std::string WithShapeAndOffsets(const std::string& shape, const std::string& offsets) {
  return SafetensorsBytes(
      absl::StrCat(R"({"w": {"dtype": "F32", "shape": )", shape, R"(, "data_offsets": )", offsets, "}}"),
      "1234");
}

TEST(Safetensors, EveryShapeAndOffsetIsChecked) {
  EXPECT_TRUE(Parse(WithShapeAndOffsets("[1]", "[0, 4]")).ok());
  EXPECT_TRUE(Parse(WithShapeAndOffsets("[1, 1, 1]", "[0, 4]")).ok());
  for (const char* shape : {"[2]", "[0]", "[-1]", "[1.0]", "1", "[9223372036854775807, 2]",
                            "[4294967296, 4294967296]", "[18446744073709551615]", "[\"1\"]", "null",
                            "[1,1,1,1,1,1,1,1,1]", "[9223372036854775807, 9223372036854775807, 0]"}) {
    EXPECT_THAT(ErrorOf(WithShapeAndOffsets(shape, "[0, 4]")), HasSubstr("tensor 'w': field '")) << shape;
  }
  for (const char* offsets : {"[0, 5]", "[1, 5]", "[4, 0]", "[-4, 0]", "[0]", "[0, 4, 4]", "4", "null",
                              "[0, 18446744073709551615]", "[9223372036854775807, 9223372036854775807]"}) {
    EXPECT_THAT(ErrorOf(WithShapeAndOffsets("[1]", offsets)), HasSubstr("field 'data_offsets'")) << offsets;
  }
}

TEST(Safetensors, OverlapsHolesAndRestsAreRefused) {
  const auto two = [](const char* a, const char* b) {
    return SafetensorsBytes(
        absl::StrCat(R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": )", a,
                     R"(}, "b": {"dtype": "U8", "shape": [4], "data_offsets": )", b, "}}"),
        "123456789");
  };
  EXPECT_THAT(ErrorOf(two("[0, 4]", "[3, 7]")), AllOf(HasSubstr("'b'"), HasSubstr("overlaps")));
  EXPECT_THAT(ErrorOf(two("[0, 4]", "[0, 4]")), HasSubstr("overlaps"));
  EXPECT_THAT(ErrorOf(two("[0, 4]", "[5, 9]")), AllOf(HasSubstr("'b'"), HasSubstr("hole")));
  EXPECT_THAT(ErrorOf(two("[0, 4]", "[4, 8]")), HasSubstr("1 bytes after the last tensor"));
}

TEST(Safetensors, UnknownDtypesAreRefusedByName) {
  EXPECT_THAT(
      ErrorOf(SafetensorsBytes(R"({"w": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}})", "1")),
      AllOf(HasSubstr("tensor 'w'"), HasSubstr("'F4'"), HasSubstr("save")));
}

TEST(Safetensors, MissingFilesAreRefusedByName) {
  const auto file = SafetensorsFile::Open("/nowhere/model.safetensors");
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("/nowhere/model.safetensors"));
}

}  // namespace
}  // namespace spillway::model
