// Finds the tokens that are recognised in the text itself, before it is cut into words: control tokens, and
// the user-defined tokens of a vocabulary. Immutable and thread-safe.
#ifndef SPILLWAY_ENGINE_TEXT_SPECIAL_TOKEN_MATCHER_H_
#define SPILLWAY_ENGINE_TEXT_SPECIAL_TOKEN_MATCHER_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/text/vocabulary.h"

namespace spillway::text {

class SpecialTokenMatcher {
 public:
  struct Match {
    TokenId token = -1;  // -1: none
    size_t bytes = 0;
    bool control = false;
  };

  SpecialTokenMatcher();

  // `text` is what the token looks like in a prompt; empty ones are ignored. Of two with the same text the
  // first stays.
  void Add(absl::string_view text, TokenId token, bool control);

  // The longest token at the beginning of `text`. A control token counts only when it ends within the first
  // `control_bytes`.
  Match LongestAt(absl::string_view text, size_t control_bytes) const;

  // Whether a token may begin with `byte`: a quick test for the bytes of ordinary text.
  bool MayBegin(char byte) const { return first_[static_cast<uint8_t>(byte)] != 0; }
  bool empty() const { return nodes_.size() == 1; }

 private:
  // A trie; the children of a node are a linked list.
  struct Node {
    uint8_t byte = 0;
    bool control = false;
    TokenId token = -1;
    uint32_t child = 0;  // 0: none
    uint32_t sibling = 0;
  };

  uint32_t FindChild(uint32_t node, uint8_t byte) const;

  std::vector<Node> nodes_;            // [0] is the root
  std::array<uint32_t, 256> first_{};  // the root's children by byte
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_SPECIAL_TOKEN_MATCHER_H_
