#include "scheduler/choice_output.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace spillway::scheduler {

bool StopRules::IsStop(text::TokenId id) const {
  return std::binary_search(stop_ids.begin(), stop_ids.end(), id);
}

ChoiceOutput::ChoiceOutput(const text::Tokenizer& tokenizer, const StopRules& rules,
                           text::StopMatcher matcher)
    : tokenizer_(tokenizer),
      rules_(rules),
      detokenizer_(tokenizer, {rules.skip_special, /*at_text_start=*/false}),
      matcher_(std::move(matcher)) {}

ChoiceOutput::Outcome ChoiceOutput::Append(text::TokenId id) {
  ++n_tokens_;
  if (rules_.IsStop(id)) return Flush(FinishReason::kStopToken, id);
  // A model's head may be padded beyond its vocabulary; such ids stand for no text.
  Outcome outcome;
  if (tokenizer_.InRange(id)) outcome = Match(detokenizer_.Append(id));
  if (outcome.finished.has_value() || n_tokens_ < rules_.max_tokens) return outcome;
  Outcome end = Flush(FinishReason::kLength, -1);
  end.text.insert(0, outcome.text);
  return end;
}

ChoiceOutput::Outcome ChoiceOutput::Match(const std::string& text) {
  if (n_tokens_ <= rules_.min_tokens) return {text, std::nullopt};
  text::StopMatcher::Result result = matcher_.Append(text);
  Outcome outcome;
  outcome.text = std::move(result.text);
  if (result.stop.has_value()) {
    FinishedEvent& finished = outcome.finished.emplace();
    finished.reason = FinishReason::kStopString;
    finished.stop_string = matcher_.stop_strings()[static_cast<size_t>(*result.stop)];
    if (rules_.include_stop) outcome.text += finished.stop_string;
  }
  return outcome;
}

ChoiceOutput::Outcome ChoiceOutput::Flush(FinishReason reason, text::TokenId stop_token) {
  Outcome outcome = Match(detokenizer_.Flush());
  if (outcome.finished.has_value()) return outcome;
  outcome.text += matcher_.Flush();
  FinishedEvent& finished = outcome.finished.emplace();
  finished.reason = reason;
  finished.stop_token = stop_token;
  return outcome;
}

}  // namespace spillway::scheduler
