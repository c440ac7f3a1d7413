#include "engine/model/gguf_vocabulary.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/encode.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

using fakes::GgufWriter;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using text::TokenId;
using text::TokenType;
using text::Vocabulary;

absl::StatusOr<Vocabulary> Read(const std::string& bytes) {
  const auto file = GgufFile::Parse(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "v.gguf");
  if (!file.ok()) return file.status();
  return VocabularyFromGguf(*file);
}

// A file with nothing but `tokens` and the embedding that goes with them; `write` adds the rest.
absl::StatusOr<Vocabulary> ReadTokens(const std::string& model, const std::vector<std::string>& tokens,
                                      const std::function<void(GgufWriter&)>& write) {
  GgufWriter writer;
  writer.String("tokenizer.ggml.model", model).Strings("tokenizer.ggml.tokens", tokens);
  if (model == "gpt2") writer.Strings("tokenizer.ggml.merges", {"a b"});
  if (write) write(writer);
  const auto rows = static_cast<int64_t>(tokens.size());
  writer.Tensor("token_embd.weight", {rows, 1}, device::Encoding::kF32,
                fakes::Encode(device::Encoding::kF32, std::vector<float>(tokens.size())));
  return Read(writer.Bytes());
}

std::string ErrorOf(const absl::StatusOr<Vocabulary>& vocabulary) {
  return std::string(vocabulary.status().message());
}

TEST(VocabularyFromGguf, ATinyVocabularyIsReadWhole) {
  const auto vocabulary = Read(fakes::TinyLlamaBytes({.vocab_size = 300}));
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->model, "gpt2");
  EXPECT_EQ(vocabulary->pre, "smollm");
  ASSERT_EQ(vocabulary->tokens.size(), 300u);
  EXPECT_EQ(vocabulary->tokens[1], "<|im_start|>");
  EXPECT_EQ(vocabulary->types[1], TokenType::kControl);
  EXPECT_EQ(vocabulary->tokens[3 + 'A'], "A");
  EXPECT_EQ(vocabulary->tokens[3 + ' '], "\xC4\xA0");  // U+0120
  EXPECT_EQ(vocabulary->types[3 + 'A'], TokenType::kNormal);
  ASSERT_EQ(vocabulary->merges.size(), 300u - 259u);
  EXPECT_EQ(vocabulary->merges[0], "\xC4\xA0 t");
  EXPECT_EQ(vocabulary->tokens[259], "\xC4\xA0t");
  EXPECT_THAT(vocabulary->scores, IsEmpty());
  EXPECT_EQ(vocabulary->bos, 1);
  EXPECT_EQ(vocabulary->eos, 2);
  EXPECT_EQ(vocabulary->padding, std::nullopt);
  EXPECT_THAT(vocabulary->stop_ids, ElementsAre(0, 2));
  EXPECT_THAT(vocabulary->chat_template, HasSubstr("<|im_start|>assistant\n"));
}

// llama.cpp's defaults (llama-vocab.cpp, llama_vocab::impl::load).
TEST(VocabularyFromGguf, SentencePieceDefaults) {
  const auto vocabulary = ReadTokens("llama", {"<unk>", "<s>", "</s>", "a"}, [](GgufWriter& writer) {
    writer.Floats("tokenizer.ggml.scores", {0, 0, 0, -1.5f});
  });
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_TRUE(vocabulary->add_bos);
  EXPECT_FALSE(vocabulary->add_eos);
  EXPECT_TRUE(vocabulary->add_space_prefix);
  EXPECT_EQ(vocabulary->unknown, 0);
  EXPECT_EQ(vocabulary->bos, 1);
  EXPECT_EQ(vocabulary->eos, 2);
  EXPECT_THAT(vocabulary->scores, ElementsAre(0, 0, 0, -1.5f));
  EXPECT_THAT(vocabulary->stop_ids, ElementsAre(2));
}

TEST(VocabularyFromGguf, ByteLevelDefaults) {
  const auto vocabulary = ReadTokens("gpt2", {"a", "b", "c"}, nullptr);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_FALSE(vocabulary->add_bos);
  EXPECT_FALSE(vocabulary->add_eos);
  EXPECT_FALSE(vocabulary->add_space_prefix);
  EXPECT_EQ(vocabulary->bos, std::nullopt);
  EXPECT_EQ(vocabulary->eos, std::nullopt);
  EXPECT_THAT(vocabulary->stop_ids, IsEmpty());
}

TEST(VocabularyFromGguf, Llama3BeginsWithBosUnlessTheFileSaysOtherwise) {
  const auto llama3 = [](GgufWriter& writer) {
    writer.String("tokenizer.ggml.pre", "llama-bpe").Uint32("tokenizer.ggml.bos_token_id", 0);
  };
  EXPECT_TRUE(ReadTokens("gpt2", {"a", "b"}, llama3)->add_bos);
  EXPECT_FALSE(ReadTokens("gpt2", {"a", "b"}, [&](GgufWriter& writer) {
                 llama3(writer);
                 writer.Bool("tokenizer.ggml.add_bos_token", false);
               })->add_bos);
}

TEST(VocabularyFromGguf, FlagsOfTheFileWin) {
  const auto vocabulary = ReadTokens("llama", {"<unk>", "<s>", "</s>"}, [](GgufWriter& writer) {
    writer.Bool("tokenizer.ggml.add_bos_token", false)
        .Bool("tokenizer.ggml.add_eos_token", true)
        .Bool("tokenizer.ggml.add_space_prefix", false);
  });
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_FALSE(vocabulary->add_bos);
  EXPECT_TRUE(vocabulary->add_eos);
  EXPECT_FALSE(vocabulary->add_space_prefix);
}

TEST(VocabularyFromGguf, StopIdsAreEveryEndOfTheFile) {
  const std::vector<std::string> tokens = {"a",
                                           "<|eot_id|>",
                                           "b",
                                           "<|eom_id|>",
                                           "<|im_end|>",
                                           "<end_of_turn>",
                                           "</s>",
                                           "c",
                                           "<\xEF\xBD\x9C"
                                           "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"};
  const auto vocabulary = ReadTokens("gpt2", tokens, [](GgufWriter& writer) {
    // 5 is user-defined; 6 is a normal token that merely looks like an end.
    writer.Int32s("tokenizer.ggml.token_type", {1, 3, 1, 3, 3, 4, 1, 1, 3})
        .Uint32("tokenizer.ggml.eos_token_id", 2)
        .Uint32("tokenizer.ggml.eot_token_id", 1)
        .Uint32("tokenizer.ggml.eom_token_id", 7);
  });
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_THAT(vocabulary->stop_ids, ElementsAre(1, 2, 3, 4, 5, 7, 8));
}

TEST(VocabularyFromGguf, SpecialIdOutsideTheVocabularyIsRefused) {
  for (const std::string name : {"bos", "eos", "eot", "eom", "unknown"}) {
    const auto vocabulary = ReadTokens("gpt2", {"a", "b"}, [&](GgufWriter& writer) {
      writer.Uint32("tokenizer.ggml." + name + "_token_id", 2);
    });
    EXPECT_THAT(ErrorOf(vocabulary),
                AllOf(HasSubstr(name + "_token_id"), HasSubstr("id 2 is outside a vocabulary of 2")));
  }
}

TEST(VocabularyFromGguf, PaddingOutsideTheVocabularyIsNone) {
  const auto with_padding = [](uint32_t id) {
    return ReadTokens("gpt2", {"a", "b"},
                      [&](GgufWriter& writer) { writer.Uint32("tokenizer.ggml.padding_token_id", id); });
  };
  EXPECT_EQ(with_padding(1)->padding, 1);
  EXPECT_EQ(with_padding(2)->padding, std::nullopt);
  EXPECT_EQ(with_padding(UINT32_MAX)->padding, std::nullopt);
}

TEST(VocabularyFromGguf, OtherTokenizersAreRefusedByName) {
  const auto vocabulary = ReadTokens("bert", {"a"}, nullptr);
  EXPECT_EQ(vocabulary.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(ErrorOf(vocabulary), HasSubstr("tokenizer 'bert' is not supported"));
}

TEST(VocabularyFromGguf, ContradictionsAreRefused) {
  const auto error = [](const std::function<void(GgufWriter&)>& write) {
    return ErrorOf(ReadTokens("gpt2", {"a", "b"}, write));
  };
  EXPECT_THAT(error([](GgufWriter& w) { w.Floats("tokenizer.ggml.scores", {1}); }),
              HasSubstr("an array of 1 elements, wanted 2"));
  EXPECT_THAT(error([](GgufWriter& w) {
                w.Floats("tokenizer.ggml.scores", {1, NAN});
              }),
              HasSubstr("element 1 is not a number"));
  EXPECT_THAT(error([](GgufWriter& w) {
                w.Int32s("tokenizer.ggml.token_type", {1, 2, 3});
              }),
              HasSubstr("an array of 3 elements, wanted 2"));
  EXPECT_THAT(error([](GgufWriter& w) {
                w.Int32s("tokenizer.ggml.token_type", {1, 7});
              }),
              HasSubstr("element 1: 7 is not a token type"));
  EXPECT_THAT(error([](GgufWriter& w) { w.Bool("tokenizer.ggml.add_bos_token", true); }),
              HasSubstr("'tokenizer.ggml.add_bos_token': a token is to be added"));
  EXPECT_THAT(error([](GgufWriter& w) { w.Bool("tokenizer.ggml.add_eos_token", true); }),
              HasSubstr("'tokenizer.ggml.add_eos_token': a token is to be added"));
  EXPECT_THAT(error([](GgufWriter& w) { w.Uint32("tokenizer.chat_template", 1); }),
              HasSubstr("'tokenizer.chat_template': found uint32, wanted a string"));
}

TEST(VocabularyFromGguf, MergesAreTwoParts) {
  for (const std::string merge : {"ab", " ab", "ab ", ""}) {
    GgufWriter writer;
    writer.String("tokenizer.ggml.model", "gpt2")
        .Strings("tokenizer.ggml.tokens", {"a"})
        .Strings("tokenizer.ggml.merges", {"a b", merge})
        .Tensor("token_embd.weight", {1, 1}, device::Encoding::kF32, std::vector<uint8_t>(4));
    EXPECT_THAT(ErrorOf(Read(writer.Bytes())), HasSubstr("element 1: '" + merge + "' is not two parts"));
  }
}

TEST(VocabularyFromGguf, SizeIsTheEmbeddings) {
  GgufWriter writer;
  writer.String("tokenizer.ggml.model", "llama").Strings("tokenizer.ggml.tokens", {"a", "b"});
  EXPECT_THAT(ErrorOf(Read(writer.Bytes())),
              HasSubstr("2 tokens, but the embedding 'token_embd.weight' has 0 rows"));
  writer.Tensor("token_embd.weight", {3, 1}, device::Encoding::kF32, std::vector<uint8_t>(12));
  EXPECT_THAT(ErrorOf(Read(writer.Bytes())), HasSubstr("has 3 rows"));
}

}  // namespace
}  // namespace spillway::model
