// The tokenizer against the reference implementations: Hugging Face's tokenizers and SentencePiece.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/text/chat_template.h"
#include "engine/text/incremental_detokenizer.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/golden_file.h"

namespace spillway::text {
namespace {

using ::testing::ElementsAreArray;

// Stops a comparison of thousands of strings from printing all of them.
constexpr int kMismatchesShown = 5;

std::string Quote(const std::string& text) { return "\"" + absl::Utf8SafeCHexEscape(text) + "\""; }

// Compares ids string by string; returns the number of strings that differ.
int CompareEncodings(const Tokenizer& tokenizer, const std::vector<std::string>& strings,
                     const std::vector<std::vector<TokenId>>& expected, size_t begin, size_t end,
                     bool parse_special) {
  int mismatches = 0;
  for (size_t i = begin; i < end; ++i) {
    auto ids = tokenizer.Encode(strings[i], {.add_bos = false, .parse_special = parse_special});
    EXPECT_TRUE(ids.ok()) << ids.status();
    if (ids.ok() && *ids == expected[i]) continue;
    if (++mismatches <= kMismatchesShown && ids.ok()) {
      EXPECT_THAT(*ids, ElementsAreArray(expected[i])) << Quote(strings[i]);
    }
  }
  return mismatches;
}

std::vector<TokenType> ToTypes(const std::vector<int>& numbers) {
  std::vector<TokenType> types;
  for (const int number : numbers) types.push_back(static_cast<TokenType>(number));
  return types;
}

TEST(TokenizerGoldenTest, PreTokenizersCutWhereTheReferenceCuts) {
  const auto golden = ReadGolden("tokenizer_pre.json.z");
  const auto strings = golden.at("strings").get<std::vector<std::string>>();
  ASSERT_GE(strings.size(), 3000u);
  for (const auto& [name, cuts] : golden.at("characters_per_word").items()) {
    auto pre = PreTokenizer::Create(name);
    ASSERT_TRUE(pre.ok()) << pre.status();
    int mismatches = 0;
    for (size_t i = 0; i < strings.size(); ++i) {
      std::vector<int> characters_per_word;
      auto status = (*pre)->Split(strings[i], [&](absl::string_view word) {
        int characters = 0;
        for (const char c : word) characters += (c & 0xC0) != 0x80;
        characters_per_word.push_back(characters);
      });
      ASSERT_TRUE(status.ok()) << status;
      const auto expected = cuts[i].get<std::vector<int>>();
      if (characters_per_word == expected) continue;
      if (++mismatches <= kMismatchesShown) {
        EXPECT_THAT(characters_per_word, ElementsAreArray(expected)) << name << " " << Quote(strings[i]);
      }
    }
    EXPECT_EQ(mismatches, 0) << name;
  }
}

TEST(TokenizerGoldenTest, SmallByteLevelVocabulariesEncodeAsTheReference) {
  const auto golden = ReadGolden("tokenizer_tiny_bpe.json.z");
  ASSERT_EQ(golden.size(), 4u);
  for (const auto& entry : golden) {
    Vocabulary vocabulary;
    vocabulary.model = "gpt2";
    entry.at("pre").get_to(vocabulary.pre);
    entry.at("tokens").get_to(vocabulary.tokens);
    entry.at("merges").get_to(vocabulary.merges);
    vocabulary.types = ToTypes(entry.at("types").get<std::vector<int>>());
    const std::string pre = vocabulary.pre;
    auto tokenizer = Tokenizer::Create(std::move(vocabulary));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto strings = entry.at("strings").get<std::vector<std::string>>();
    const auto plain = entry.at("ids").get<std::vector<std::vector<TokenId>>>();
    const auto special = entry.at("ids_parse_special").get<std::vector<std::vector<TokenId>>>();
    EXPECT_EQ(CompareEncodings(**tokenizer, strings, plain, 0, strings.size(), false), 0) << pre;
    EXPECT_EQ(CompareEncodings(**tokenizer, strings, special, 0, strings.size(), true), 0) << pre;
    for (size_t i = 0; i < strings.size(); ++i) {
      EXPECT_EQ((*tokenizer)->Decode(special[i], /*skip_special=*/false).value(), strings[i]) << pre;
    }
  }
}

TEST(TokenizerGoldenTest, SentencePieceVocabulariesEncodeAndDecodeAsTheReference) {
  const auto golden = ReadGolden("tokenizer_tiny_spm.json.z");
  ASSERT_EQ(golden.size(), 3u);
  for (const auto& entry : golden) {
    Vocabulary vocabulary;
    vocabulary.model = "llama";
    entry.at("tokens").get_to(vocabulary.tokens);
    entry.at("scores").get_to(vocabulary.scores);
    entry.at("add_space_prefix").get_to(vocabulary.add_space_prefix);
    vocabulary.types = ToTypes(entry.at("types").get<std::vector<int>>());
    vocabulary.unknown = 0;
    vocabulary.bos = 1;
    vocabulary.eos = 2;
    auto tokenizer = Tokenizer::Create(std::move(vocabulary));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto strings = entry.at("strings").get<std::vector<std::string>>();
    const auto ids = entry.at("ids").get<std::vector<std::vector<TokenId>>>();
    EXPECT_EQ(CompareEncodings(**tokenizer, strings, ids, 0, strings.size(), false), 0);
    const auto decoded = entry.at("decoded").get<std::vector<std::string>>();
    for (size_t i = 0; i < strings.size(); ++i) {
      bool unknown = false;
      for (const TokenId id : ids[i]) unknown |= id == 0;
      if (unknown) continue;  // SentencePiece shows " \u2047 " for these
      EXPECT_EQ((*tokenizer)->Decode(ids[i]).value(), decoded[i]) << Quote(strings[i]);
    }
  }
}

class DemoModelTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("SPILLWAY_DEMO_MODEL");
    if (path == nullptr) GTEST_SKIP() << "SPILLWAY_DEMO_MODEL is not set to the demo model's GGUF file";
    auto file = model::GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    auto vocabulary = model::VocabularyFromGguf(*file);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    chat_template_ = vocabulary->chat_template;
    auto tokenizer = Tokenizer::Create(*std::move(vocabulary));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    golden_ = ReadGolden("tokenizer_smollm2.json.z");
    strings_ = golden_.at("strings").get<std::vector<std::string>>();
    ids_ = golden_.at("ids").get<std::vector<std::vector<TokenId>>>();
    ASSERT_EQ(strings_.size(), 20000u);
    ASSERT_EQ(ids_.size(), strings_.size());
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::string chat_template_;
  nlohmann::json golden_;
  std::vector<std::string> strings_;
  std::vector<std::vector<TokenId>> ids_;
};

TEST_F(DemoModelTokenizerTest, TwentyThousandStringsEncodeAsTheReference) {
  const auto special_from = golden_.at("parse_special_from").get<size_t>();
  EXPECT_EQ(CompareEncodings(*tokenizer_, strings_, ids_, 0, special_from, false), 0);
  EXPECT_EQ(CompareEncodings(*tokenizer_, strings_, ids_, special_from, strings_.size(), true), 0);
}

TEST_F(DemoModelTokenizerTest, TokensTakenOneByOneGiveTheTextOfAllAtOnce) {
  for (const auto& ids : ids_) {
    IncrementalDetokenizer detokenizer(*tokenizer_, {.skip_special = false});
    std::string text;
    for (const TokenId id : ids) {
      const std::string part = detokenizer.Append(id);
      ASSERT_FALSE(FindInvalidUtf8(part)) << Quote(part);
      text += part;
    }
    text += detokenizer.Flush();
    ASSERT_EQ(text, tokenizer_->Decode(ids, /*skip_special=*/false).value());
  }
}

TEST_F(DemoModelTokenizerTest, MostTokensOccurInTheGoldens) {
  std::vector<bool> seen(tokenizer_->vocab_size());
  for (const auto& ids : ids_) {
    for (const TokenId id : ids) seen[id] = true;
  }
  // Every token was put into a string, but some join with their neighbours.
  EXPECT_GT(std::count(seen.begin(), seen.end(), true), tokenizer_->vocab_size() * 8 / 10);
}

// The reference tokenizes the whole rendered text, special tokens included.
TEST_F(DemoModelTokenizerTest, HonestChatsEncodeAsTheirWholeText) {
  auto chat_template = ChatTemplate::Parse(chat_template_);
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  int chats = 0;
  for (size_t i = 0; i + 1 < strings_.size(); i += 2) {
    // A string with a special token in it is not honest.
    const auto has_special = [this](const std::string& text) {
      const auto ids = tokenizer_->Encode(text, {.add_bos = false, .parse_special = true}).value();
      return std::any_of(ids.begin(), ids.end(), [this](TokenId id) { return tokenizer_->IsSpecial(id); });
    };
    if (has_special(strings_[i]) || has_special(strings_[i + 1])) continue;
    ++chats;
    const std::vector<ChatMessage> messages = {{"system", strings_[i]}, {"user", strings_[i + 1]}};
    const auto pieces = chat_template->Render(messages, {});
    ASSERT_TRUE(pieces.ok()) << pieces.status();
    std::string whole;
    for (const Piece& piece : *pieces) whole += piece.text;
    const auto expected = tokenizer_->Encode(whole, {.parse_special = true}).value();
    ASSERT_EQ(tokenizer_->EncodePieces(*pieces).value(), expected) << Quote(whole);
  }
  EXPECT_GT(chats, 8000);
}

}  // namespace
}  // namespace spillway::text
