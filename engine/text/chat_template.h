// The model's own chat template: a bounded interpreter of the part of Jinja that chat templates use.
//
// Whitespace is handled as Hugging Face Transformers does (trim_blocks and lstrip_blocks on). A construct
// that is not supported is an error when the template is parsed, with its name and line, never a surprise at
// the first request. Text is tracked by origin through every string operation: what a message brought in
// stays marked, so that the tokenizer recognises special tokens only in what the template itself wrote.
//
// A template comes from a file and may be hostile: its size and nesting, the steps it may run and the text it
// may write are limited, and passing a limit is an error.
//
// Immutable after Parse and thread-safe.
#ifndef SPILLWAY_ENGINE_TEXT_CHAT_TEMPLATE_H_
#define SPILLWAY_ENGINE_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/text/piece.h"

namespace spillway::text {

struct ChatMessage {
  // "system", "user", "assistant" or what the template knows besides. The roles in common use count as
  // template text (templates build special tokens such as "<|user|>" of them), any other as content.
  std::string role;
  std::string content;
};

// A further variable for the template, such as enable_thinking.
using TemplateVariable = std::variant<bool, int64_t, double, std::string>;

struct RenderOptions {
  std::string bos_token = {};  // as the vocabulary spells them; empty where it has none
  std::string eos_token = {};
  bool add_generation_prompt = true;
  // What the template writes after the last message's content is left out, so that the model goes on with it.
  // REQUIRES: not add_generation_prompt. InvalidArgument where the content does not appear as it is, but for
  // space around it.
  bool continue_final_message = false;
  // Strings count as message content, not as template text. A name that templates have already (messages,
  // tools,
  // ...) is InvalidArgument.
  std::map<std::string, TemplateVariable> extra = {};
  int64_t unix_seconds = 0;  // the time that strftime_now sees, UTC
};

namespace jinja {
struct Program;
}

class ChatTemplate {
 public:
  // InvalidArgument: syntax errors; Unimplemented: constructs of Jinja that are not supported. Both name the
  // line.
  static absl::StatusOr<ChatTemplate> Parse(absl::string_view source);

  // Adjacent pieces differ in parse_special, none is empty. InvalidArgument: the template refused the
  // messages (raise_exception, its words are the message) or does not fit them; ResourceExhausted: it passed
  // a limit.
  absl::StatusOr<std::vector<Piece>> Render(absl::Span<const ChatMessage> messages,
                                            const RenderOptions& options) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::Program> program);

  std::shared_ptr<const jinja::Program> program_;  // immutable; copies of the template share it
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_CHAT_TEMPLATE_H_
