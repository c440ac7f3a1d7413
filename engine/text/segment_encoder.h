// Turns ordinary text, the stretches between special tokens, into token ids. One implementation per tokenizer
// family. Immutable and thread-safe.
#ifndef SPILLWAY_ENGINE_TEXT_SEGMENT_ENCODER_H_
#define SPILLWAY_ENGINE_TEXT_SEGMENT_ENCODER_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/text/vocabulary.h"

namespace spillway::text {

class SegmentEncoder {
 public:
  virtual ~SegmentEncoder() = default;

  // Appends the tokens of `text` to `ids`. REQUIRES: `text` is valid UTF-8, not empty and shorter than 2 GiB,
  // and lies at the start of the whole text or directly behind a control token when `at_start`.
  virtual absl::Status Encode(absl::string_view text, bool at_start, std::vector<TokenId>& ids) const = 0;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_SEGMENT_ENCODER_H_
