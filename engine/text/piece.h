// A stretch of prompt text and who wrote it.
#ifndef SPILLWAY_ENGINE_TEXT_PIECE_H_
#define SPILLWAY_ENGINE_TEXT_PIECE_H_

#include <string>

namespace spillway::text {

// A rendered chat prompt is a list of these. Only what the chat template itself wrote may become special
// tokens; what came from a message stays plain text, whatever it looks like.
struct Piece {
  std::string text;
  bool parse_special = false;  // true: written by the template (or otherwise trusted)
};

inline bool operator==(const Piece& a, const Piece& b) {
  return a.parse_special == b.parse_special && a.text == b.text;
}

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_PIECE_H_
