#include "tests/engine/text/tiny_vocabulary.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/text/byte_level.h"
#include "engine/text/utf8.h"

namespace spillway::text {

Vocabulary MakeTinyVocabulary() {
  Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelling;
    AppendUtf8(ByteLevelCharacter(static_cast<uint8_t>(byte)), spelling);
    vocabulary.tokens.push_back(spelling);
  }
  const std::string space = vocabulary.tokens[' '], newline = vocabulary.tokens['\n'];
  vocabulary.merges = {
      "h e", "l l", "he ll", "hell o", space + " hello", "a a", "aa aa", newline + " " + newline};
  for (const std::string& merge : vocabulary.merges) {
    std::string joined = merge;
    joined.erase(joined.find(' ', 1), 1);
    vocabulary.tokens.push_back(joined);
  }
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kNormal);
  const auto add = [&](const char* text, TokenType type) {
    vocabulary.tokens.push_back(text);
    vocabulary.types.push_back(type);
  };
  add("<s>", TokenType::kControl);
  add("<|end|>", TokenType::kControl);
  add("<tool>", TokenType::kUserDefined);
  vocabulary.bos = kBos;
  vocabulary.eos = kEnd;
  vocabulary.stop_ids = {kEnd};
  return vocabulary;
}

std::unique_ptr<Tokenizer> MakeTinyTokenizer(Vocabulary vocabulary) {
  auto tokenizer = Tokenizer::Create(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

Vocabulary MakeTinySentencePieceVocabulary() {
  Vocabulary vocabulary;
  vocabulary.model = "llama";
  const auto add = [&](std::string text, TokenType type, float score) {
    vocabulary.tokens.push_back(std::move(text));
    vocabulary.types.push_back(type);
    vocabulary.scores.push_back(score);
  };
  add("<unk>", TokenType::kUnknown, 0);
  add("<s>", TokenType::kControl, 0);
  add("</s>", TokenType::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) add(absl::StrFormat("<0x%02X>", byte), TokenType::kByte, 0);
  float score = 0;
  for (const char* text : {"he", "ll",   "hell",   "hello", "\u2581hello", "\u2581w", "\u2581world", "or",
                           "ld", "orld", "\u2581", "h",     "e",           "l",       "o",           "w",
                           "r",  "d",    "<",      "s",     ">",           "<s",      "\u2581a"}) {
    add(text, TokenType::kNormal, score -= 1);
  }
  vocabulary.unknown = 0;
  vocabulary.bos = 1;
  vocabulary.eos = 2;
  vocabulary.add_bos = true;
  vocabulary.add_space_prefix = true;
  return vocabulary;
}

}  // namespace spillway::text
