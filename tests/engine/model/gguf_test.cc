#include "engine/model/gguf.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/encode.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Golden() { return std::string(SPILLWAY_TESTDATA) + "/gguf/all_types.gguf"; }

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// A file in the test's own directory, gone with it.
class TemporaryFile {
 public:
  explicit TemporaryFile(absl::string_view bytes) {
    path_ = ::testing::TempDir() + std::to_string(getpid()) + "_gguf_test_XXXXXX";
    const int fd = mkstemp(path_.data());
    EXPECT_GE(fd, 0);
    close(fd);
    EXPECT_TRUE(fakes::WriteFile(path_, bytes).ok());
  }
  ~TemporaryFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(GgufFile, ReadsEveryTypeThatTheReferenceWrites) {
  const auto file = GgufFile::Open(Golden());
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufMetadata& metadata = file->metadata();
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(*metadata.Int("test.uint8"), 250);
  EXPECT_EQ(*metadata.Int("test.int8"), -5);
  EXPECT_EQ(*metadata.Int("test.uint16"), 65000);
  EXPECT_EQ(*metadata.Int("test.int16"), -3000);
  EXPECT_EQ(*metadata.Int("test.uint32"), 4000000000);
  EXPECT_EQ(*metadata.Int("test.int32"), -2000000000);
  EXPECT_EQ(*metadata.Int("test.uint64"), 9000000000000000000);
  EXPECT_EQ(*metadata.Int("test.int64"), -9000000000000000000);
  EXPECT_EQ(*metadata.Float("test.float32"), 0.15625);
  EXPECT_EQ(*metadata.Float("test.float64"), 1e300);
  EXPECT_TRUE(*metadata.Bool("test.true"));
  EXPECT_FALSE(*metadata.Bool("test.false"));
  EXPECT_EQ(*metadata.String("test.string"), "gr\xC3\xBC\xC3\x9F dich");
  EXPECT_THAT(*metadata.Strings("test.strings", 3), ElementsAre("", "a", "\xE4\xB8\x96\xE7\x95\x8C"));
  EXPECT_THAT(*metadata.Ints("test.ints", 3), ElementsAre(3, -1, 4));
  EXPECT_THAT(*metadata.Ints("test.bytes", 3), ElementsAre(1, 2, 255));
  EXPECT_THAT(*metadata.Floats("test.floats", 2), ElementsAre(0.5f, -2.0f));
  EXPECT_EQ(*metadata.ArraySize("test.bools"), 3);
  EXPECT_EQ(*metadata.ArraySize("test.nested"), 2);
}

TEST(GgufFile, ShapesAreOutermostFirstAndDataIsInPlace) {
  const auto file = GgufFile::Open(Golden());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 2u);
  const device::TensorView* matrix = file->FindTensor("matrix.weight");
  ASSERT_NE(matrix, nullptr);
  EXPECT_THAT(matrix->shape, ElementsAre(2, 3));
  EXPECT_EQ(matrix->encoding, device::Encoding::kF16);
  EXPECT_EQ(matrix->size_bytes, 12);
  std::vector<float> values(6);
  device::DecodeToF32(matrix->encoding, matrix->data, 6, values.data());
  EXPECT_THAT(values, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_EQ(file->FindTensor("matrix"), nullptr);
}

TEST(GgufFile, Version2ReadsLikeVersion3) {
  const std::string bytes = fakes::GgufWriter(2).Uint32("n", 7).Bytes();
  const TemporaryFile temporary(bytes);
  const auto file = GgufFile::Open(temporary.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->version(), 2u);
  EXPECT_EQ(*file->metadata().Int("n"), 7);
}

TEST(GgufFile, AlignmentOfTheFileIsHonoured) {
  fakes::GgufWriter writer;
  writer.Alignment(256).Uint32("general.alignment", 256);
  writer.Tensor("a", {2}, device::Encoding::kF32, fakes::Encode(device::Encoding::kF32, {{1.0f, 2.0f}}));
  writer.Tensor("b", {2}, device::Encoding::kF32, fakes::Encode(device::Encoding::kF32, {{3.0f, 4.0f}}));
  const TemporaryFile temporary(writer.Bytes());
  const auto file = GgufFile::Open(temporary.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->FindTensor("b")->data - file->FindTensor("a")->data, 256);
  float value;
  device::DecodeToF32(device::Encoding::kF32, file->FindTensor("b")->data, 1, &value);
  EXPECT_EQ(value, 3.0f);
}

TEST(GgufFile, ViewsSurviveAMove) {
  const TemporaryFile temporary(fakes::TinyLlamaBytes({}));
  auto opened = GgufFile::Open(temporary.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const device::TensorView* tensor = opened->FindTensor("output_norm.weight");
  const absl::string_view name = *opened->metadata().String("general.name");
  const GgufFile moved = *std::move(opened);
  EXPECT_EQ(moved.FindTensor("output_norm.weight"), tensor);
  EXPECT_EQ(name, "Tiny Llama");
  EXPECT_THAT(Message(moved.metadata().Int("general.name").status()), HasSubstr(temporary.path()));
}

TEST(GgufMetadata, WrongTypeNamesFileOffsetKeyAndBothTypes) {
  const auto file = GgufFile::Open(Golden());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto status = file->metadata().Int("test.string").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("all_types.gguf: byte "), HasSubstr("'test.string'"),
                                     HasSubstr("found string, wanted an integer; convert")));
  EXPECT_THAT(Message(file->metadata().Strings("test.ints", 3).status()),
              HasSubstr("found an array of int32, wanted an array of string"));
  EXPECT_THAT(Message(file->metadata().Floats("test.true", 1).status()),
              HasSubstr("found bool, wanted an array"));
  EXPECT_THAT(Message(file->metadata().Bool("test.uint8").status()), HasSubstr("found uint8, wanted a bool"));
  EXPECT_THAT(Message(file->metadata().Float("test.uint8").status()),
              HasSubstr("found uint8, wanted a float32"));
}

TEST(GgufMetadata, MissingKeyIsNotFoundOrTheDefault) {
  const auto file = GgufFile::Open(Golden());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().Int("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*file->metadata().IntOr("absent", 5), 5);
  EXPECT_EQ(*file->metadata().StringOr("absent", "x"), "x");
  EXPECT_TRUE(*file->metadata().BoolOr("absent", true));
  EXPECT_EQ(*file->metadata().FloatOr("absent", 2.5), 2.5);
  // A default never hides a value of another type.
  EXPECT_FALSE(file->metadata().IntOr("test.string", 5).ok());
}

TEST(GgufMetadata, ArrayOfAnotherSizeIsRefused) {
  const auto file = GgufFile::Open(Golden());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(Message(file->metadata().Ints("test.ints", 4).status()),
              HasSubstr("an array of 3 elements, wanted 4"));
}

TEST(GgufMetadata, IntegerBeyond63BitsIsRefused) {
  const TemporaryFile temporary(fakes::GgufWriter().Raw("n", 10, fakes::Le(uint64_t{1} << 63)).Bytes());
  const auto file = GgufFile::Open(temporary.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(Message(file->metadata().Int("n").status()), HasSubstr("9223372036854775808"));
}

TEST(GgufFileOpen, WhatIsNoModelFileIsRefused) {
  EXPECT_EQ(GgufFile::Open("/no/such/model.gguf").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(GgufFile::Open("/no/such/model.gguf").status()),
              HasSubstr("/no/such/model.gguf: cannot open"));
  EXPECT_THAT(Message(GgufFile::Open(::testing::TempDir()).status()), HasSubstr("not a regular file"));
  EXPECT_THAT(Message(GgufFile::Open("/dev/null").status()), HasSubstr("not a regular file"));
  const TemporaryFile empty("");
  EXPECT_THAT(Message(GgufFile::Open(empty.path()).status()), HasSubstr("the file is empty"));
}

TEST(GgufFileOpen, NamedPipeIsRefusedAndNotWaitedFor) {
  const std::string path = ::testing::TempDir() + std::to_string(getpid()) + "_gguf_test_pipe";
  unlink(path.c_str());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(Message(GgufFile::Open(path).status()), HasSubstr("not a regular file"));
  unlink(path.c_str());
}

TEST(GgufFileOpen, ChangeAfterOpeningIsNoticed) {
  const TemporaryFile temporary(fakes::TinyLlamaBytes({}));
  const auto file = GgufFile::Open(temporary.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->CheckUnchanged().ok());
  std::ofstream(temporary.path(), std::ios::app) << "more";
  const absl::Status changed = file->CheckUnchanged();
  EXPECT_EQ(changed.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(changed), HasSubstr("changed while it was read"));
}

TEST(GgufFileOpen, ReplacementByRenameIsNoChange) {
  const TemporaryFile temporary(fakes::TinyLlamaBytes({}));
  const TemporaryFile other(fakes::TinyLlamaBytes({.seed = 2}));
  const auto file = GgufFile::Open(temporary.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string before(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
  ASSERT_EQ(rename(other.path().c_str(), temporary.path().c_str()), 0);
  EXPECT_TRUE(file->CheckUnchanged().ok());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()), before);
}

}  // namespace
}  // namespace spillway::model
