// A byte-level vocabulary small enough to follow by hand.
#ifndef SPILLWAY_TESTS_ENGINE_TEXT_TINY_VOCABULARY_H_
#define SPILLWAY_TESTS_ENGINE_TEXT_TINY_VOCABULARY_H_

#include <memory>

#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"

namespace spillway::text {

// Ids 0..255 are the bytes; then come the merges and special tokens below.
enum TinyToken : TokenId {
  kHe = 256,     // "he"
  kLl,           // "ll"
  kHell,         // "hell"
  kHello,        // "hello"
  kSpaceHello,   // " hello"
  kAa,           // "aa"
  kAaaa,         // "aaaa"
  kNewlines,     // "\n\n"
  kBos,          // "<s>", control
  kEnd,          // "<|end|>", control
  kUserDefined,  // "<tool>", user-defined
  kTinyVocabularySize,
};

Vocabulary MakeTinyVocabulary();
std::unique_ptr<Tokenizer> MakeTinyTokenizer(Vocabulary vocabulary = MakeTinyVocabulary());

// The same idea for SentencePiece: <unk> <s> </s>, 256 byte tokens, the letters of "hello world" and a few
// joins.
Vocabulary MakeTinySentencePieceVocabulary();

}  // namespace spillway::text

#endif  // SPILLWAY_TESTS_ENGINE_TEXT_TINY_VOCABULARY_H_
