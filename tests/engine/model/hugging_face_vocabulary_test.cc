// Vocabularies of tokenizer.json against what Hugging Face's tokenizers library makes of the same strings
// (tests/golden/make_hugging_face_tokenizer_goldens.py).
#include "engine/model/hugging_face_vocabulary.h"

#include <fstream>
#include <functional>

#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json ReadGolden(const std::string& name) {
  return Json::parse(std::ifstream(SPILLWAY_TESTDATA "/hugging_face_tokenizer/" + name));
}

TEST(VocabularyFromTokenizerJson, IdsAreThoseOfTheReference) {
  for (const auto& [name, vocab_size] : {std::pair{"gpt2", 420}, {"llama3", 500}, {"llama2", 558}}) {
    const Json json = ReadGolden(std::string(name) + ".json");
    auto vocabulary = VocabularyFromTokenizerJson(JsonObject(json, "tokenizer.json"), vocab_size);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    const auto tokenizer = text::Tokenizer::Create(*std::move(vocabulary));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->vocab_size(), vocab_size);
    int compared = 0;
    for (const Json& golden : ReadGolden(std::string(name) + ".cases.json")) {
      const auto text = golden[0].get<std::string>();
      auto want = golden[1].get<std::vector<text::TokenId>>();
      // The reference puts a second BOS in front of a text that brings its own; Spillway never does.
      if ((*tokenizer)->add_bos() && want.size() > 1 && want[0] == want[1] &&
          want[0] == (*tokenizer)->bos()) {
        want.erase(want.begin());
      }
      EXPECT_EQ(*(*tokenizer)->Encode(text, {.parse_special = true}), want) << name << ": " << text;
      ++compared;
    }
    EXPECT_GT(compared, 20);
  }
}

// The golden of that name after `edit`.
absl::Status After(const std::string& name, const std::function<void(Json&)>& edit,
                   int32_t vocab_size = 600) {
  Json json = ReadGolden(name);
  edit(json);
  return VocabularyFromTokenizerJson(JsonObject(json, "tokenizer.json"), vocab_size).status();
}

std::string Joined(const Json& merge) { return merge[0].get<std::string>() + merge[1].get<std::string>(); }

void MoveOneOfTwoJoinsToTheEnd(Json& tokenizer) {
  Json& merges = tokenizer["model"]["merges"];
  for (size_t i = 0; i + 1 < merges.size(); ++i) {
    if (Joined(merges[i]) != Joined(merges[i + 1])) continue;
    merges.push_back(merges[i]);
    merges.erase(i);
    return;
  }
  FAIL() << "no token has two splits";
}

TEST(VocabularyFromTokenizerJson, WhatWouldGiveOtherIdsIsRefusedByField) {
  const std::tuple<const char*, std::function<void(Json&)>, const char*> cases[] = {
      {"gpt2.json", [](Json& j) { j["model"]["type"] = "Unigram"; }, "model.type"},
      {"gpt2.json", [](Json& j) { j["model"]["dropout"] = 0.1; }, "dropout"},
      {"gpt2.json", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix"},
      {"gpt2.json",
       [](Json& j) {
         j["normalizer"] = {{"type", "NFC"}};
       },
       "normalizer"},
      {"gpt2.json", [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; }, "pre_tokenizer"},
      {"gpt2.json", [](Json& j) { j["pre_tokenizer"] = nullptr; }, "pre_tokenizer"},
      {"gpt2.json", [](Json& j) { j["model"]["ignore_merges"] = true; }, "pre_tokenizer"},
      {"gpt2.json", [](Json& j) { j["added_tokens"][0]["lstrip"] = true; }, "lstrip"},
      {"gpt2.json", [](Json& j) { j["post_processor"] = "x"; }, "post_processor"},
      {"llama3.json", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\s+"; },
       "pre_tokenizer"},
      {"llama3.json", [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; },
       "pre_tokenizer"},
      {"llama3.json",
       [](Json& j) {
         Json& single = j["post_processor"]["processors"][1]["single"];
         std::swap(single[0], single[1]);
       },
       "post_processor"},
      {"llama2.json", [](Json& j) { j["normalizer"]["normalizers"].erase(0); }, "normalizer"},
      {"llama2.json", [](Json& j) { j["model"]["merges"].erase(7); }, "merges"},
      {"llama2.json", [](Json& j) { j["model"]["vocab"][std::string(129, 'x')] = 599; }, "vocab"},
      {"llama2.json", MoveOneOfTwoJoinsToTheEnd, "merges"},
  };
  for (const auto& [name, edit, field] : cases) {
    const absl::Status status = After(name, edit);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << name << " " << field << " " << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("tokenizer.json"), HasSubstr(field)));
  }
  EXPECT_EQ(After(
                "gpt2.json", [](Json&) {}, 419)
                .code(),
            absl::StatusCode::kUnimplemented)
      << "an id that the model does not have";
}

TEST(VocabularyFromTokenizerJson, DamageIsRefusedByField) {
  const std::pair<std::function<void(Json&)>, const char*> cases[] = {
      {[](Json& j) { j.erase("model"); }, "model"},
      {[](Json& j) { j["model"]["vocab"] = 7; }, "vocab"},
      {[](Json& j) { j["model"]["vocab"]["the"] = "x"; }, "vocab"},
      {[](Json& j) { j["model"]["vocab"]["zzzz"] = 5; }, "vocab"},
      {[](Json& j) { j["model"]["merges"] = nullptr; }, "merges"},
      {[](Json& j) {
         j["model"]["merges"][0] = {"zz", "qq"};
       },
       "merges"},
      {[](Json& j) { j["model"]["merges"][0] = 3; }, "merges"},
      {[](Json& j) { j["added_tokens"] = {1}; }, "added_tokens"},
      {[](Json& j) { j["added_tokens"][0].erase("content"); }, "content"},
      {[](Json& j) { j["added_tokens"][0]["id"] = 77; }, "id"},
  };
  for (const auto& [edit, field] : cases) {
    const absl::Status status = After("gpt2.json", edit);
    EXPECT_FALSE(status.ok()) << field;
    EXPECT_NE(status.code(), absl::StatusCode::kUnimplemented) << field << " " << status;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("tokenizer.json"), HasSubstr(field)));
  }
}

}  // namespace
}  // namespace spillway::model
