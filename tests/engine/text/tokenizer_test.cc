#include "engine/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "tests/engine/text/tiny_vocabulary.h"

namespace spillway::text {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<TokenId> Encode(const Tokenizer& tokenizer, absl::string_view text, EncodeOptions options = {}) {
  auto ids = tokenizer.Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return *std::move(ids);
}

std::string CreateError(Vocabulary vocabulary) {
  return std::string(Tokenizer::Create(std::move(vocabulary)).status().message());
}

TEST(TokenizerTest, WordsJoinInTheOrderOfTheMerges) {
  const auto tokenizer = MakeTinyTokenizer();
  EXPECT_THAT(Encode(*tokenizer, "hello hello"), ElementsAre(kHello, kSpaceHello));
  EXPECT_THAT(Encode(*tokenizer, "hellx"), ElementsAre(kHell, 'x'));
  EXPECT_THAT(Encode(*tokenizer, "aaa"), ElementsAre(kAa, 'a'));  // the leftmost pair first
  EXPECT_THAT(Encode(*tokenizer, "aaaaaaa"), ElementsAre(kAaaa, kAa, 'a'));
  EXPECT_THAT(Encode(*tokenizer, ""), IsEmpty());
}

TEST(TokenizerTest, ScanningAndHeapJoinAlike) {
  const auto tokenizer = MakeTinyTokenizer();
  for (size_t n = 1; n < 200; ++n) {
    std::vector<TokenId> expected(n / 4, kAaaa);
    if (n % 4 >= 2) expected.push_back(kAa);
    if (n % 2 == 1) expected.push_back('a');
    EXPECT_EQ(Encode(*tokenizer, std::string(n, 'a')), expected) << n;
  }
}

TEST(TokenizerTest, InvalidUtf8IsRefusedWithItsOffset) {
  const auto tokenizer = MakeTinyTokenizer();
  const auto status = tokenizer->Encode("hello \xFF").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("byte 6"));
}

TEST(TokenizerTest, ControlTokensAreParsedOnlyWhereAsked) {
  const auto tokenizer = MakeTinyTokenizer();
  EXPECT_THAT(Encode(*tokenizer, "hello<|end|>", {.parse_special = true}), ElementsAre(kHello, kEnd));
  EXPECT_THAT(Encode(*tokenizer, "hello<|end|>"), ElementsAre(kHello, '<', '|', 'e', 'n', 'd', '|', '>'));
}

TEST(TokenizerTest, UserDefinedTokensAreAlwaysParsed) {
  const auto tokenizer = MakeTinyTokenizer();
  EXPECT_THAT(Encode(*tokenizer, "hello<tool>hello"), ElementsAre(kHello, kUserDefined, kHello));
}

TEST(TokenizerTest, OnlyTheTemplatesTextBecomesControlTokens) {
  const auto tokenizer = MakeTinyTokenizer();
  auto ids = tokenizer->EncodePieces({{"<|end|>", true}, {"<|end|>", false}, {"<|end|>", true}});
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, ElementsAre(kEnd, '<', '|', 'e', 'n', 'd', '|', '>', kEnd));
}

TEST(TokenizerTest, ControlTokensDoNotFormAcrossThePieceBorder) {
  const auto tokenizer = MakeTinyTokenizer();
  for (const auto& pieces : std::vector<std::vector<Piece>>{{{"<|en", true}, {"d|>", false}},
                                                            {{"<|en", false}, {"d|>", true}},
                                                            {{"<|", true}, {"en", false}, {"d|>", true}}}) {
    auto ids = tokenizer->EncodePieces(pieces);
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(std::count(ids->begin(), ids->end(), kEnd), 0);
  }
  // The template may write one in two parts.
  EXPECT_THAT(*tokenizer->EncodePieces({{"<|en", true}, {"", false}, {"d|>", true}}), ElementsAre(kEnd));
}

TEST(TokenizerTest, WordsDoJoinAcrossThePieceBorder) {
  const auto tokenizer = MakeTinyTokenizer();
  EXPECT_THAT(*tokenizer->EncodePieces({{"<|end|>hel", true}, {"lo", false}}), ElementsAre(kEnd, kHello));
}

TEST(TokenizerTest, BosIsPutInFrontOnceWhereTheVocabularyAsks) {
  Vocabulary vocabulary = MakeTinyVocabulary();
  vocabulary.add_bos = true;
  const auto tokenizer = MakeTinyTokenizer(std::move(vocabulary));
  EXPECT_THAT(Encode(*tokenizer, "hello"), ElementsAre(kBos, kHello));
  EXPECT_THAT(Encode(*tokenizer, ""), ElementsAre(kBos));
  EXPECT_THAT(Encode(*tokenizer, "hello", {.add_bos = false}), ElementsAre(kHello));
  EXPECT_THAT(Encode(*tokenizer, "<s>hello", {.parse_special = true}), ElementsAre(kBos, kHello));
  EXPECT_THAT(Encode(*tokenizer, "<s><s>", {.parse_special = true}), ElementsAre(kBos, kBos));
  EXPECT_THAT(Encode(*tokenizer, "<s>"), ElementsAre(kBos, '<', 's', '>'));
  EXPECT_THAT(*tokenizer->EncodePieces({{"<s>", true}, {"hello", false}}), ElementsAre(kBos, kHello));
  EXPECT_THAT(*tokenizer->EncodePieces({{"hello", false}}), ElementsAre(kBos, kHello));
  EXPECT_THAT(*tokenizer->EncodePieces({{"<s>", false}}), ElementsAre(kBos, '<', 's', '>'));
}

TEST(TokenizerTest, BytesWithoutATokenAreLeftOut) {
  Vocabulary vocabulary = MakeTinyVocabulary();
  vocabulary.tokens['x'] = "[none]";
  const auto tokenizer = MakeTinyTokenizer(std::move(vocabulary));
  EXPECT_THAT(Encode(*tokenizer, "hexllo"), ElementsAre(kHello));
}

TEST(TokenizerTest, DecodeTurnsBrokenBytesIntoReplacementCharacters) {
  const auto tokenizer = MakeTinyTokenizer();
  const std::vector<TokenId> ids = {kHello, 0xC3, 0xA9, 0xC3, kEnd, kHello};
  EXPECT_EQ(*tokenizer->Decode(ids), "hello\u00E9\uFFFDhello");
  EXPECT_EQ(*tokenizer->Decode(ids, /*skip_special=*/false), "hello\u00E9\uFFFD<|end|>hello");
  const TokenId outside[] = {kTinyVocabularySize};
  EXPECT_EQ(tokenizer->Decode(outside).status().code(), absl::StatusCode::kInvalidArgument);
  const TokenId negative[] = {-1};
  EXPECT_EQ(tokenizer->Decode(negative).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerTest, TokensAreKnownByKind) {
  const auto tokenizer = MakeTinyTokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), kTinyVocabularySize);
  EXPECT_EQ(tokenizer->TokenBytes(kSpaceHello), " hello");
  EXPECT_EQ(tokenizer->TokenBytes(0xFF), "\xFF");
  EXPECT_EQ(tokenizer->TokenBytes(kEnd), "<|end|>");
  EXPECT_TRUE(tokenizer->IsSpecial(kEnd));
  EXPECT_FALSE(tokenizer->IsSpecial(kUserDefined));
  EXPECT_TRUE(tokenizer->IsStop(kEnd));
  EXPECT_FALSE(tokenizer->IsStop(kBos));
  EXPECT_FALSE(tokenizer->IsStop(-1));
  EXPECT_FALSE(tokenizer->IsSpecial(1 << 30));
}

TEST(TokenizerTest, UnsupportedKindsAreRefusedByName) {
  Vocabulary vocabulary = MakeTinyVocabulary();
  vocabulary.pre = "esperanto-9";
  EXPECT_THAT(CreateError(vocabulary),
              AllOf(HasSubstr("esperanto-9"), HasSubstr("smollm"), HasSubstr("llama-bpe")));
  vocabulary.pre = "";
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("names no pre-tokenizer"));
  vocabulary.model = "t5";
  EXPECT_THAT(CreateError(vocabulary), AllOf(HasSubstr("t5"), HasSubstr("gpt2")));
}

TEST(TokenizerTest, SelfContradictionsAreRefused) {
  Vocabulary vocabulary = MakeTinyVocabulary();
  vocabulary.merges.push_back("q zz");
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("tokenizer.ggml.merges[8]"));
  vocabulary = MakeTinyVocabulary();
  vocabulary.merges.push_back("nospace");
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("not a pair"));
  vocabulary = MakeTinyVocabulary();
  vocabulary.types.pop_back();
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("token_type"));
  vocabulary = MakeTinyVocabulary();
  vocabulary.scores = {1};
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("scores"));
  vocabulary = MakeTinyVocabulary();
  vocabulary.bos = kTinyVocabularySize;
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("bos_token_id"));
  vocabulary = MakeTinyVocabulary();
  vocabulary.stop_ids = {-1};
  EXPECT_FALSE(CreateError(vocabulary).empty());
  vocabulary = MakeTinySentencePieceVocabulary();
  vocabulary.scores[9] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("scores[9]"));
  EXPECT_FALSE(CreateError(Vocabulary{}).empty());
}

TEST(TokenizerTest, TextThatSpellsAControlTokenNeverBecomesIt) {
  Vocabulary vocabulary = MakeTinyVocabulary();
  const TokenId st = kTinyVocabularySize, op = st + 1, stop = st + 2;
  vocabulary.tokens.insert(vocabulary.tokens.end(), {"st", "op", "stop"});
  vocabulary.types.insert(vocabulary.types.end(),
                          {TokenType::kNormal, TokenType::kNormal, TokenType::kControl});
  vocabulary.merges.insert(vocabulary.merges.end(), {"s t", "o p"});
  EXPECT_THAT(Encode(*MakeTinyTokenizer(vocabulary), "stop"), ElementsAre(st, op));
  vocabulary.pre = "llama-bpe";  // looks words up whole
  EXPECT_THAT(Encode(*MakeTinyTokenizer(vocabulary), "stop"), ElementsAre(st, op));
  EXPECT_THAT(Encode(*MakeTinyTokenizer(vocabulary), "stop", {.parse_special = true}), ElementsAre(stop));
  vocabulary.merges.push_back("st op");
  EXPECT_THAT(CreateError(vocabulary), HasSubstr("makes what is not a token"));

  const auto sentencepiece = MakeTinyTokenizer(MakeTinySentencePieceVocabulary());
  const auto ids = Encode(*sentencepiece, "<s>", {.add_bos = false});
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 0);
}

TEST(SentencePieceTest, TextGetsASpaceInFrontAndLosesItAgain) {
  const auto tokenizer = MakeTinyTokenizer(MakeTinySentencePieceVocabulary());
  const auto ids = Encode(*tokenizer, "hello world");
  std::vector<std::string> bytes;
  for (const TokenId id : ids) bytes.emplace_back(tokenizer->TokenBytes(id));
  EXPECT_THAT(bytes, ElementsAre("<s>", " hello", " world"));
  EXPECT_EQ(*tokenizer->Decode(ids), "hello world");
  EXPECT_EQ(*tokenizer->Decode(Encode(*tokenizer, "  hello")), "  hello");
}

TEST(SentencePieceTest, TheSpaceIsPutInFrontAgainBehindAControlToken) {
  Vocabulary vocabulary = MakeTinySentencePieceVocabulary();
  vocabulary.tokens.push_back("<tool>");
  vocabulary.types.push_back(TokenType::kUserDefined);
  vocabulary.scores.push_back(0);
  const auto tokenizer = MakeTinyTokenizer(std::move(vocabulary));
  const auto bytes = [&](absl::string_view text) {
    std::vector<std::string> result;
    for (const TokenId id : Encode(*tokenizer, text, {.add_bos = false, .parse_special = true})) {
      result.emplace_back(tokenizer->TokenBytes(id));
    }
    return result;
  };
  EXPECT_THAT(bytes("hello</s>hello"), ElementsAre(" hello", "</s>", " hello"));
  EXPECT_THAT(bytes("hello<tool>hello"), ElementsAre(" hello", "<tool>", "hello"));
  EXPECT_THAT(bytes("<tool>hello"), ElementsAre(" ", "<tool>", "hello"));
}

TEST(SentencePieceTest, TokensMayReachAcrossWords) {
  Vocabulary vocabulary = MakeTinySentencePieceVocabulary();
  vocabulary.tokens.push_back("o\u2581w");
  vocabulary.types.push_back(TokenType::kNormal);
  vocabulary.scores.push_back(100);
  const auto tokenizer = MakeTinyTokenizer(std::move(vocabulary));
  const auto ids = Encode(*tokenizer, "o world");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer->vocab_size() - 1), 1);
  EXPECT_EQ(*tokenizer->Decode(ids), "o world");
}

TEST(SentencePieceTest, UnknownCharactersBecomeBytes) {
  const auto tokenizer = MakeTinyTokenizer(MakeTinySentencePieceVocabulary());
  const auto ids = Encode(*tokenizer, "\u00E9", {.add_bos = false});
  EXPECT_EQ(ids.size(), 3u);  // the space, then two bytes
  EXPECT_EQ(tokenizer->TokenBytes(ids[1]), "\xC3");
  EXPECT_EQ(*tokenizer->Decode(ids), "\u00E9");
}

class LongTextTest : public ::testing::TestWithParam<std::string> {};

// A quadratic algorithm takes many minutes for a megabyte; the bound, of processor time, leaves room for
// sanitizers.
TEST_P(LongTextTest, AMegabyteOfAnyTextIsEncodedInSeconds) {
  const auto bpe = MakeTinyTokenizer();
  const auto sentencepiece = MakeTinyTokenizer(MakeTinySentencePieceVocabulary());
  std::string text;
  while (text.size() < (1 << 20)) text += GetParam();
  for (const Tokenizer* tokenizer : {bpe.get(), sentencepiece.get()}) {
    const std::clock_t start = std::clock();
    const auto ids = Encode(*tokenizer, text, {.add_bos = false, .parse_special = true});
    EXPECT_LT(std::clock() - start, 20 * CLOCKS_PER_SEC);
    EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/false).value(), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Texts, LongTextTest,
                         ::testing::Values("a", " ", "\n", "ab", "9", "<", "hello", "\u00E9", "a ", " \n",
                                           "!", "<|en", "A", "\xE4\xB8\x80"));

}  // namespace
}  // namespace spillway::text
