// Chat templates against Hugging Face Transformers: the same text, refused where it refuses.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/text/chat_template.h"
#include "tests/engine/text/golden_file.h"

namespace spillway::text {
namespace {

TEST(ChatTemplateGoldenTest, EveryCaseRendersAsTheReference) {
  const auto cases = ReadGolden("chat_templates.json.z");
  ASSERT_GE(cases.size(), 400u);
  for (const auto& c : cases) {
    const auto name = c.at("name").get<std::string>();
    const auto source = c.at("template").get<std::string>();
    std::vector<ChatMessage> messages;
    for (const auto& message : c.at("messages")) messages.push_back({message[0], message[1]});
    RenderOptions options{.bos_token = "<s>", .eos_token = "</s>"};
    options.add_generation_prompt = c.at("add_generation_prompt").get<bool>();
    for (const auto& [key, value] : c.at("extra").items()) {
      if (value.is_boolean()) {
        options.extra[key] = value.get<bool>();
      } else {
        options.extra[key] = value.get<std::string>();
      }
    }
    auto chat_template = ChatTemplate::Parse(source);
    const absl::StatusOr<std::vector<Piece>> pieces =
        chat_template.ok() ? chat_template->Render(messages, options) : chat_template.status();
    if (c.contains("refused")) {
      EXPECT_FALSE(pieces.ok()) << name << "\n" << source << "\n" << c.at("why");
      const auto words = c.at("refused").get<std::string>();
      if (!words.empty()) {
        EXPECT_EQ(pieces.status().message(), words) << name;
        EXPECT_EQ(pieces.status().code(), absl::StatusCode::kInvalidArgument) << name;
      }
      continue;
    }
    ASSERT_TRUE(pieces.ok()) << pieces.status() << "\n" << name << "\n" << source;
    std::string text;
    for (const Piece& piece : *pieces) text += piece.text;
    EXPECT_EQ(text, c.at("text").get<std::string>()) << name << "\n" << source;
  }
}

}  // namespace
}  // namespace spillway::text
