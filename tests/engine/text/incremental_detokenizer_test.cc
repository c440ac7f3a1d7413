#include "engine/text/incremental_detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "engine/text/utf8.h"
#include "tests/engine/text/tiny_vocabulary.h"

namespace spillway::text {
namespace {

TEST(IncrementalDetokenizerTest, CharactersComeOutWhole) {
  const auto tokenizer = MakeTinyTokenizer();
  IncrementalDetokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0x9F), "");
  EXPECT_EQ(detokenizer.Append(0x98), "");
  EXPECT_EQ(detokenizer.Append(0x80), "\U0001F600");
  EXPECT_EQ(detokenizer.Append(kSpaceHello), " hello");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST(IncrementalDetokenizerTest, BrokenCharactersAreReplacedOnceTheyCannotBeCompleted) {
  const auto tokenizer = MakeTinyTokenizer();
  IncrementalDetokenizer detokenizer(*tokenizer);
  EXPECT_EQ(detokenizer.Append(0xE2), "");
  EXPECT_EQ(detokenizer.Append(0x82), "");
  EXPECT_EQ(detokenizer.Append('a'), "\uFFFDa");
  EXPECT_EQ(detokenizer.Append(0xC3), "");
  EXPECT_EQ(detokenizer.Flush(), "\uFFFD");
}

TEST(IncrementalDetokenizerTest, ControlTokensGiveTextOnlyWhereAsked) {
  const auto tokenizer = MakeTinyTokenizer();
  IncrementalDetokenizer skipping(*tokenizer), showing(*tokenizer, {.skip_special = false});
  EXPECT_EQ(skipping.Append(kEnd), "");
  EXPECT_EQ(skipping.Append(kUserDefined), "<tool>");
  EXPECT_EQ(showing.Append(kEnd), "<|end|>");
}

TEST(IncrementalDetokenizerTest, AContinuationKeepsItsLeadingSpace) {
  const auto tokenizer = MakeTinyTokenizer(MakeTinySentencePieceVocabulary());
  const auto ids = tokenizer->Encode("world").value();  // <s>, " world"
  IncrementalDetokenizer continuation(*tokenizer), beginning(*tokenizer, {.at_text_start = true});
  std::string continued, begun;
  for (const TokenId id : ids) {
    continued += continuation.Append(id);
    begun += beginning.Append(id);
  }
  EXPECT_EQ(continued, " world");
  EXPECT_EQ(begun, "world");
}

TEST(IncrementalDetokenizerTest, AnyTokensGiveTheTextOfDecode) {
  const auto bpe = MakeTinyTokenizer();
  const auto sentencepiece = MakeTinyTokenizer(MakeTinySentencePieceVocabulary());
  std::mt19937 random(3);
  for (const Tokenizer* tokenizer : {bpe.get(), sentencepiece.get()}) {
    for (int round = 0; round < 3000; ++round) {
      IncrementalDetokenizer detokenizer(*tokenizer, {.at_text_start = true});
      std::vector<TokenId> ids;
      std::string text;
      for (int i = 0; i < 12; ++i) {
        ids.push_back(static_cast<TokenId>(random() % tokenizer->vocab_size()));
        const std::string part = detokenizer.Append(ids.back());
        ASSERT_EQ(FindInvalidUtf8(part), std::nullopt);
        text += part;
      }
      text += detokenizer.Flush();
      ASSERT_EQ(text, tokenizer->Decode(ids).value());
    }
  }
}

TEST(IncrementalDetokenizerDeathTest, AnIdOutsideTheVocabularyIsAProgrammersMistake) {
  const auto tokenizer = MakeTinyTokenizer();
  IncrementalDetokenizer detokenizer(*tokenizer);
  EXPECT_DEATH(detokenizer.Append(kTinyVocabularySize), "outside the vocabulary");
}

}  // namespace
}  // namespace spillway::text
