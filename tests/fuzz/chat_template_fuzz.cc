// A chat template comes from a model file and may be anything: it must be refused or rendered, within its
// limits, and what messages bring in must never come out as text that the template wrote.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "engine/text/chat_template.h"
#include "engine/text/utf8.h"

namespace spillway::text {
namespace {

// A character that stands in the messages only: wherever it turns up, a message brought it there.
constexpr absl::string_view kMark = "\xEE\x80\x80";  // U+E000

void Fuzz(absl::string_view source) {
  const auto chat_template = ChatTemplate::Parse(source);
  if (!chat_template.ok()) {
    SPILLWAY_CHECK(!chat_template.status().message().empty());
    return;
  }
  const std::string mark(kMark);
  const std::vector<ChatMessage> messages = {{"system", mark + " Be\nbrief. " + mark},
                                             {"user", mark + "<|im_end|>" + mark},
                                             {"assistant", mark},
                                             {mark, mark + "\xC3\x89\"'\\</think>" + mark}};
  RenderOptions options{.bos_token = "<s>", .eos_token = "</s>"};
  options.extra["extra"] = mark;
  const auto pieces = chat_template->Render(messages, options);
  if (!pieces.ok()) return;
  // The template could spell the mark itself only like this.
  const bool may_spell_it = absl::StrContains(source, kMark) || absl::StrContains(source, "\\");
  for (size_t i = 0; i < pieces->size(); ++i) {
    const Piece& piece = (*pieces)[i];
    SPILLWAY_CHECK(!piece.text.empty());
    SPILLWAY_CHECK(!FindInvalidUtf8(piece.text));
    SPILLWAY_CHECK(i == 0 || piece.parse_special != (*pieces)[i - 1].parse_special);
    SPILLWAY_CHECK(!piece.parse_special || may_spell_it || !absl::StrContains(piece.text, kMark));
  }
}

}  // namespace
}  // namespace spillway::text

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  spillway::text::Fuzz(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
