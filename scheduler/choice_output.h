// ChoiceOutput: from the sampled ids of one choice to what its reader sees: whole UTF-8, nothing of a stop
// string, and why the choice ended.
//
// Step thread only.
#ifndef SPILLWAY_SCHEDULER_CHOICE_OUTPUT_H_
#define SPILLWAY_SCHEDULER_CHOICE_OUTPUT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/text/incremental_detokenizer.h"
#include "engine/text/stop_matcher.h"
#include "engine/text/tokenizer.h"
#include "engine/text/vocabulary.h"
#include "scheduler/token_stream.h"

namespace spillway::scheduler {

// When a request's choices end; the same for all of them.
struct StopRules {
  std::vector<text::TokenId> stop_ids;  // ascending: the model's, unless ignored, and the request's
  int32_t max_tokens = 0;
  int32_t min_tokens =
      0;  // no stop id is drawn before, and in the text of so many tokens no stop string is found
  bool include_stop = false;
  bool skip_special = true;

  bool IsStop(text::TokenId id) const;
};

class ChoiceOutput {
 public:
  struct Outcome {
    std::string text;                       // certain with this token; may be empty
    std::optional<FinishedEvent> finished;  // index is not set
  };

  // `tokenizer` and `rules` must outlive this object. `matcher` is fresh.
  ChoiceOutput(const text::Tokenizer& tokenizer, const StopRules& rules, text::StopMatcher matcher);

  // REQUIRES: not finished.
  Outcome Append(text::TokenId id);

 private:
  Outcome Match(const std::string& text);
  // The end without a stop string, unless what was held back completes one.
  Outcome Flush(FinishReason reason, text::TokenId stop_token);

  const text::Tokenizer& tokenizer_;
  const StopRules& rules_;
  text::IncrementalDetokenizer detokenizer_;
  text::StopMatcher matcher_;
  int32_t n_tokens_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_CHOICE_OUTPUT_H_
