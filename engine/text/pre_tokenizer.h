// Cuts text into the words within which byte-pair encoding joins bytes. Which way to cut is part of the
// model: a file names it (tokenizer.ggml.pre), the patterns are those of the models' published tokenizers.
//
// Immutable and thread-safe.
#ifndef SPILLWAY_ENGINE_TEXT_PRE_TOKENIZER_H_
#define SPILLWAY_ENGINE_TEXT_PRE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway::text {

class PreTokenizer {
 public:
  // Unimplemented, with the list of the supported names, when `name` is not one of them; InvalidArgument when
  // it is empty.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(absl::string_view name);
  ~PreTokenizer();

  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // Calls `word` for one part after the other; together they are `text`. REQUIRES: `text` is valid UTF-8.
  // ResourceExhausted when a pattern needs more memory than the matcher allows itself.
  absl::Status Split(absl::string_view text, absl::FunctionRef<void(absl::string_view)> word) const;

  // A word that is a token as it stands is that token, whatever the merges say.
  bool ignore_merges() const { return ignore_merges_; }

 private:
  class Stage;
  struct Scratch;

  PreTokenizer();

  // Applies stage `stage` and all later ones to `text`.
  absl::Status SplitFrom(size_t stage, absl::string_view text, Scratch& scratch,
                         absl::FunctionRef<void(absl::string_view)> word) const;

  std::vector<Stage> stages_;  // each cuts what the one before left whole
  bool ignore_merges_ = false;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_PRE_TOKENIZER_H_
