#include "engine/text/special_token_matcher.h"

namespace spillway::text {

SpecialTokenMatcher::SpecialTokenMatcher() : nodes_(1) {}

uint32_t SpecialTokenMatcher::FindChild(uint32_t node, uint8_t byte) const {
  if (node == 0) return first_[byte];
  uint32_t child = nodes_[node].child;
  while (child != 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

void SpecialTokenMatcher::Add(absl::string_view text, TokenId token, bool control) {
  if (text.empty()) return;
  uint32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    uint32_t child = FindChild(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(nodes_.size());
      Node added;
      added.byte = byte;
      if (node == 0) {
        first_[byte] = child;
      } else {
        added.sibling = nodes_[node].child;
        nodes_[node].child = child;
      }
      nodes_.push_back(added);
    }
    node = child;
  }
  if (nodes_[node].token >= 0) return;
  nodes_[node].token = token;
  nodes_[node].control = control;
}

SpecialTokenMatcher::Match SpecialTokenMatcher::LongestAt(absl::string_view text,
                                                          size_t control_bytes) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    node = FindChild(node, static_cast<uint8_t>(text[i]));
    if (node == 0) break;
    const Node& at = nodes_[node];
    if (at.token >= 0 && (!at.control || i < control_bytes)) match = {at.token, i + 1, at.control};
  }
  return match;
}

}  // namespace spillway::text
