#include "server/request_reader.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

std::vector<std::string> FieldsOf(const absl::Status& status) {
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(status)) fields.push_back(violation.field);
  return fields;
}

class RequestReaderTest : public testing::Test {
 protected:
  template <typename Message>
  absl::Status StatusOf(const Message& message) const {
    return reader_.Read(message).status();
  }
  // A sound request, which tests then spoil.
  static v1::CompleteRequest Sound() {
    v1::CompleteRequest request;
    request.set_text("hello there");
    return request;
  }
  static v1::ChatRequest SoundChat() {
    v1::ChatRequest request;
    request.add_messages()->set_role("user");
    request.mutable_messages(0)->set_content("hi");
    return request;
  }

  ServedModel model_ = TinyModel(256);
  const RequestReader reader_{model_};
};

TEST_F(RequestReaderTest, UnsetFieldsTakeTheModelsDefaults) {
  model_.defaults.temperature = 0.7F;
  model_.defaults.top_k = 20;
  const auto request = reader_.Read(Sound());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->prompt, *model_.tokenizer->Encode("hello there"));
  EXPECT_FLOAT_EQ(request->sampling.temperature, 0.7F);
  EXPECT_EQ(request->sampling.top_k, 20);
  EXPECT_EQ(request->sampling.n_logprobs, -1);
  EXPECT_EQ(request->max_tokens, 32);  // the daemon's default
  EXPECT_EQ(request->n_choices, 1);
  EXPECT_TRUE(request->skip_special);
}

TEST_F(RequestReaderTest, SetFieldsArrive) {
  v1::CompleteRequest in = Sound();
  v1::GenerationOptions& options = *in.mutable_options();
  options.set_max_tokens(5);
  options.set_min_tokens(2);
  options.set_logprobs(3);
  options.set_choices(4);
  options.set_priority(-100);
  options.set_objective(v1::OBJECTIVE_THROUGHPUT);
  options.set_request_id("me");
  options.set_keep_special_tokens(true);
  options.mutable_sampling()->set_temperature(0);
  options.mutable_sampling()->set_top_p(0.5F);
  options.mutable_sampling()->set_min_p(1);
  options.set_cache_salt("salt");
  options.mutable_sampling()->set_repetition_penalty(1.5F);
  options.mutable_sampling()->set_frequency_penalty(-2);
  options.mutable_sampling()->set_presence_penalty(2);
  options.mutable_sampling()->set_seed(9);
  options.mutable_stop()->add_strings("\n");
  options.mutable_stop()->add_token_ids(5);
  options.mutable_stop()->set_ignore_eos(true);
  options.mutable_stop()->set_include_stop_string(true);
  const auto request = reader_.Read(in);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->max_tokens, 5);
  EXPECT_EQ(request->min_tokens, 2);
  EXPECT_EQ(request->sampling.n_logprobs, 3);
  EXPECT_EQ(request->n_choices, 4);
  EXPECT_EQ(request->priority, -100);
  EXPECT_EQ(request->objective, scheduler::Objective::kThroughput);
  EXPECT_EQ(request->label, "me");
  EXPECT_FALSE(request->skip_special);
  EXPECT_EQ(request->sampling.temperature, 0);
  EXPECT_EQ(request->sampling.top_p, 0.5F);
  EXPECT_EQ(request->sampling.min_p, 1);
  EXPECT_THAT(request->cache_salt, ElementsAre('s', 'a', 'l', 't'));
  EXPECT_EQ(request->sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(request->sampling.frequency_penalty, -2);
  EXPECT_EQ(request->sampling.presence_penalty, 2);
  EXPECT_EQ(request->sampling.seed, 9u);
  EXPECT_THAT(request->stop_strings, ElementsAre("\n"));
  EXPECT_THAT(request->stop_ids, ElementsAre(5));
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_TRUE(request->include_stop);
}

TEST_F(RequestReaderTest, SeedsAreDrawnWhereNoneIsGiven) {
  EXPECT_NE(reader_.Read(Sound())->sampling.seed, reader_.Read(Sound())->sampling.seed);
}

TEST_F(RequestReaderTest, OneSpoiltFieldIsOneViolation) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  struct Case {
    std::string field;
    std::function<void(v1::GenerationOptions&)> spoil;
  };
  const auto sampling = [](auto set) {
    return [set](v1::GenerationOptions& options) { set(*options.mutable_sampling()); };
  };
  using S = v1::SamplingOptions;
  const std::vector<Case> cases = {
      {"options.sampling.temperature", sampling([&](S& s) { s.set_temperature(nan); })},
      {"options.sampling.temperature", sampling([](S& s) { s.set_temperature(-0.1F); })},
      {"options.sampling.temperature", sampling([](S& s) { s.set_temperature(100.5F); })},
      {"options.sampling.temperature", sampling([&](S& s) { s.set_temperature(infinity); })},
      {"options.sampling.top_k", sampling([](S& s) { s.set_top_k(-1); })},
      {"options.sampling.top_p", sampling([](S& s) { s.set_top_p(0); })},
      {"options.sampling.top_p", sampling([](S& s) { s.set_top_p(1.01F); })},
      {"options.sampling.top_p", sampling([&](S& s) { s.set_top_p(nan); })},
      {"options.sampling.min_p", sampling([](S& s) { s.set_min_p(1.01F); })},
      {"options.sampling.min_p", sampling([](S& s) { s.set_min_p(-0.1F); })},
      {"options.sampling.repetition_penalty", sampling([](S& s) { s.set_repetition_penalty(0); })},
      {"options.sampling.repetition_penalty", sampling([](S& s) { s.set_repetition_penalty(11); })},
      {"options.sampling.frequency_penalty", sampling([](S& s) { s.set_frequency_penalty(2.1F); })},
      {"options.sampling.frequency_penalty", sampling([&](S& s) { s.set_frequency_penalty(-infinity); })},
      {"options.sampling.presence_penalty", sampling([](S& s) { s.set_presence_penalty(-2.1F); })},
      {"options.max_tokens", [](auto& o) { o.set_max_tokens(0); }},
      {"options.max_tokens", [](auto& o) { o.set_max_tokens(-5); }},
      {"options.max_tokens", [](auto& o) { o.set_max_tokens(100'000); }},
      {"options.min_tokens", [](auto& o) { o.set_min_tokens(-1); }},
      {"options.min_tokens",
       [](auto& o) {
         o.set_max_tokens(3);
         o.set_min_tokens(4);
       }},
      {"options.logprobs", [](auto& o) { o.set_logprobs(21); }},
      {"options.logprobs", [](auto& o) { o.set_logprobs(-1); }},
      {"options.choices", [](auto& o) { o.set_choices(0); }},
      {"options.choices", [](auto& o) { o.set_choices(17); }},
      {"options.cache_salt", [](auto& o) { o.set_cache_salt(std::string(257, 'x')); }},
      {"options.priority", [](auto& o) { o.set_priority(101); }},
      {"options.priority", [](auto& o) { o.set_priority(-101); }},
      {"options.objective", [](auto& o) { o.set_objective(static_cast<v1::Objective>(9)); }},
      {"options.request_id", [](auto& o) { o.set_request_id(std::string(257, 'x')); }},
      {"options.stop.strings",
       [](auto& o) {
         for (int i = 0; i < 17; ++i) o.mutable_stop()->add_strings("x");
       }},
      {"options.stop.strings[1]",
       [](auto& o) {
         o.mutable_stop()->add_strings("x");
         o.mutable_stop()->add_strings("");
       }},
      {"options.stop.strings[0]", [](auto& o) { o.mutable_stop()->add_strings(std::string(257, 'x')); }},
      {"options.stop.token_ids[0]", [](auto& o) { o.mutable_stop()->add_token_ids(320); }},
      {"options.stop.token_ids[0]", [](auto& o) { o.mutable_stop()->add_token_ids(-1); }},
      {"options.stop.token_ids",
       [](auto& o) {
         for (int i = 0; i < 65; ++i) o.mutable_stop()->add_token_ids(3);
       }},
  };
  for (const Case& each : cases) {
    v1::CompleteRequest request = Sound();
    each.spoil(*request.mutable_options());
    const absl::Status status = StatusOf(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << each.field;
    EXPECT_THAT(FieldsOf(status), ElementsAre(each.field));
    v1::ChatRequest chat = SoundChat();
    each.spoil(*chat.mutable_options());
    EXPECT_THAT(FieldsOf(StatusOf(chat)), ElementsAre(each.field)) << "in chat";
  }
}

TEST_F(RequestReaderTest, EndsOfRangesAreIn) {
  v1::CompleteRequest request = Sound();
  v1::GenerationOptions& options = *request.mutable_options();
  v1::SamplingOptions& sampling = *options.mutable_sampling();
  sampling.set_temperature(100);
  sampling.set_top_p(1);
  sampling.set_min_p(0);
  sampling.set_repetition_penalty(10);
  sampling.set_frequency_penalty(-2);
  sampling.set_presence_penalty(2);
  options.set_logprobs(20);
  options.set_choices(16);
  options.set_priority(100);
  options.set_request_id(std::string(256, 'x'));
  options.mutable_stop()->add_strings(std::string(256, 'x'));
  options.mutable_stop()->add_token_ids(319);
  EXPECT_TRUE(StatusOf(request).ok()) << StatusOf(request);
}

TEST_F(RequestReaderTest, AllBadFieldsAreNamedAtOnce) {
  v1::CompleteRequest request;
  request.mutable_tokens()->add_ids(3);
  request.mutable_tokens()->add_ids(-7);
  request.mutable_tokens()->add_ids(320);
  request.mutable_options()->set_choices(99);
  request.mutable_options()->mutable_sampling()->set_top_p(-1);
  request.mutable_options()->mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN());
  request.mutable_options()->mutable_stop()->add_strings("");
  request.mutable_options()->set_adapter("lora");
  const absl::Status status = StatusOf(request);
  EXPECT_EQ(ReasonOf(status), Reason::kInvalidField);
  EXPECT_THAT(FieldsOf(status), UnorderedElementsAre("tokens.ids[1]", "options.choices",
                                                     "options.sampling.top_p", "options.sampling.temperature",
                                                     "options.stop.strings[0]", "options.adapter"));
}

TEST_F(RequestReaderTest, NegativeTopKIsToldWhatMeansAll) {
  v1::CompleteRequest request = Sound();
  request.mutable_options()->mutable_sampling()->set_top_k(-1);
  ASSERT_THAT(FieldsOf(StatusOf(request)), ElementsAre("options.sampling.top_k"));
  EXPECT_THAT(ViolationsOf(StatusOf(request))[0].description, HasSubstr("0 means all"));
}

TEST_F(RequestReaderTest, PrioritiesAreBoundedByTheOperator) {
  model_.max_priority = 0;
  v1::CompleteRequest request = Sound();
  EXPECT_TRUE(StatusOf(request).ok());
  request.mutable_options()->set_priority(-5);
  EXPECT_TRUE(StatusOf(request).ok());
  request.mutable_options()->set_priority(1);
  EXPECT_THAT(FieldsOf(StatusOf(request)), ElementsAre("options.priority"));
}

TEST_F(RequestReaderTest, TemplateVariablesReachTheTemplate) {
  model_.chat_template = *text::ChatTemplate::Parse(
      "{{ messages[0].content }}{% if thinking %} think{% endif %} {{ depth + 1 }} {{ name }}");
  v1::ChatRequest chat = SoundChat();
  auto& variables = *chat.mutable_template_variables();
  variables["thinking"].set_bool_value(true);
  variables["depth"].set_int_value(2);
  variables["name"].set_string_value("zed");
  const auto request = reader_.Read(chat);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(*model_.tokenizer->Decode(request->prompt, true), "hi think 3 zed");

  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat()->mutable_messages() = chat.messages();
  *tokenize.mutable_chat()->mutable_template_variables() = chat.template_variables();
  const auto tokens = reader_.Tokenize(tokenize);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(std::vector<int32_t>(tokens->token_ids().begin(), tokens->token_ids().end()), request->prompt);
}

TEST_F(RequestReaderTest, BadTemplateVariablesAreNamed) {
  v1::ChatRequest chat = SoundChat();
  (*chat.mutable_template_variables())["nothing"];
  (*chat.mutable_template_variables())[std::string(65, 'x')].set_int_value(1);
  EXPECT_THAT(FieldsOf(StatusOf(chat)),
              UnorderedElementsAre("template_variables[nothing]", "template_variables"));
  chat.clear_template_variables();
  for (int i = 0; i < 33; ++i) (*chat.mutable_template_variables())[std::to_string(i)].set_int_value(i);
  EXPECT_THAT(FieldsOf(StatusOf(chat)), ElementsAre("template_variables"));
  chat.clear_template_variables();
  (*chat.mutable_template_variables())["messages"].set_int_value(1);
  EXPECT_EQ(ReasonOf(StatusOf(chat)), Reason::kChatTemplateRejected);
}

TEST_F(RequestReaderTest, TheFinalMessageCanBeContinued) {
  model_.chat_template = *text::ChatTemplate::Parse(
      "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}(go){% endif %}");
  v1::ChatRequest chat = SoundChat();
  v1::ChatMessage& last = *chat.add_messages();
  last.set_role("assistant");
  last.set_content("Well, ");
  chat.set_continue_final_message(true);
  const auto request = reader_.Read(chat);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(*model_.tokenizer->Decode(request->prompt, true), "[hi][Well, ");
  chat.set_add_generation_prompt(true);
  EXPECT_THAT(FieldsOf(StatusOf(chat)), ElementsAre("continue_final_message"));
}

TEST_F(RequestReaderTest, ManyBadTokenIdsAreOneViolationThatCounts) {
  v1::CompleteRequest request;
  for (int i = 0; i < 100; ++i) request.mutable_tokens()->add_ids(1'000'000);
  const absl::Status status = StatusOf(request);
  ASSERT_THAT(FieldsOf(status), ElementsAre("tokens.ids[0]"));
  EXPECT_THAT(ViolationsOf(status)[0].description, HasSubstr("and 99 more"));
}

TEST_F(RequestReaderTest, ReservedFieldsAreRefusedByName) {
  v1::CompleteRequest request = Sound();
  request.mutable_options()->set_adapter("lora");
  request.mutable_options()->mutable_constraint()->set_regex("a*");
  const absl::Status status = StatusOf(request);
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupportedFeature);
  EXPECT_THAT(FieldsOf(status), UnorderedElementsAre("options.adapter", "options.constraint"));
  v1::ChatRequest chat = SoundChat();
  chat.add_tools()->set_name("f");
  EXPECT_EQ(ReasonOf(StatusOf(chat)), Reason::kUnsupportedFeature);
  EXPECT_THAT(FieldsOf(StatusOf(chat)), ElementsAre("tools"));
}

TEST_F(RequestReaderTest, PromptsMustBeThereAndNotEmpty) {
  v1::CompleteRequest request;
  EXPECT_THAT(FieldsOf(StatusOf(request)), ElementsAre("prompt"));
  request.set_text("");
  EXPECT_THAT(FieldsOf(StatusOf(request)), ElementsAre("text"));
  request.mutable_tokens();
  EXPECT_THAT(FieldsOf(StatusOf(request)), ElementsAre("tokens.ids"));
  EXPECT_THAT(FieldsOf(StatusOf(v1::ChatRequest())), ElementsAre("messages"));
  v1::ChatRequest chat = SoundChat();
  chat.add_messages()->set_content("no role");
  EXPECT_THAT(FieldsOf(StatusOf(chat)), ElementsAre("messages[1].role"));
}

TEST_F(RequestReaderTest, TooLongAPromptNamesLimitAndValue) {
  v1::CompleteRequest request;
  for (int i = 0; i < 256; ++i) request.mutable_tokens()->add_ids(5);
  const absl::Status status = StatusOf(request);
  EXPECT_EQ(ReasonOf(status), Reason::kPromptTooLong);
  EXPECT_EQ(MetadataOf(status), (ReasonMetadata{{"limit", "255"}, {"value", "256"}}));
  EXPECT_THAT(FieldsOf(status), ElementsAre("prompt"));
  // Also beside other mistakes.
  request.mutable_options()->set_choices(0);
  EXPECT_THAT(FieldsOf(StatusOf(request)), UnorderedElementsAre("prompt", "options.choices"));
  request.mutable_tokens()->mutable_ids()->RemoveLast();
  request.mutable_options()->clear_choices();
  const auto fits = reader_.Read(request);
  ASSERT_TRUE(fits.ok()) << fits.status();
  EXPECT_EQ(fits->max_tokens, 1) << "what the context leaves";
}

TEST_F(RequestReaderTest, MaxTokensBeyondTheContextNamesWhatIsLeft) {
  v1::CompleteRequest request;
  for (int i = 0; i < 200; ++i) request.mutable_tokens()->add_ids(5);
  request.mutable_options()->set_max_tokens(57);
  const absl::Status status = StatusOf(request);
  EXPECT_EQ(ReasonOf(status), Reason::kRequestTooLarge);
  EXPECT_EQ(MetadataOf(status), (ReasonMetadata{{"limit", "56"}, {"value", "57"}}));
  request.mutable_options()->set_max_tokens(56);
  EXPECT_TRUE(StatusOf(request).ok());
}

TEST_F(RequestReaderTest, AConversationBeyondTheContextIsRefusedUnread) {
  v1::ChatRequest request;
  // Each would be a fault of its own, and all of them a template's work for minutes.
  for (int i = 0; i < 1'000'000; ++i) request.add_messages();
  const absl::Status status = StatusOf(request);
  EXPECT_EQ(ReasonOf(status), Reason::kPromptTooLong);
  EXPECT_THAT(FieldsOf(status), ElementsAre("messages"));
  EXPECT_THAT(MetadataOf(status), testing::Contains(testing::Pair("value", "1000000")));
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat()->mutable_messages() = request.messages();
  EXPECT_EQ(ReasonOf(reader_.Tokenize(tokenize).status()), Reason::kPromptTooLong);
}

TEST_F(RequestReaderTest, ManyFaultsOfOneKindAreOneViolation) {
  v1::ChatRequest chat;
  for (int i = 0; i < 200; ++i) chat.add_messages()->set_content("no role");
  EXPECT_THAT(FieldsOf(StatusOf(chat)), ElementsAre("messages[0].role"));
  EXPECT_THAT(std::string(StatusOf(chat).message()), HasSubstr("and 199 more"));
  v1::CompleteRequest request = Sound();
  for (int i = 0; i < 100'000; ++i) {
    request.mutable_options()->mutable_stop()->add_strings("");
    request.mutable_options()->mutable_stop()->add_token_ids(-1);
  }
  EXPECT_THAT(FieldsOf(StatusOf(request)),
              ElementsAre("options.stop.strings", "options.stop.strings[0]", "options.stop.token_ids",
                          "options.stop.token_ids[0]"));
}

TEST_F(RequestReaderTest, TextThatCannotFitIsNotTokenised) {
  model_.longest_token_bytes = 8;
  v1::CompleteRequest request;
  request.set_text(std::string(256 * 8 + 1, 'x'));
  const absl::Status status = StatusOf(request);
  EXPECT_EQ(ReasonOf(status), Reason::kPromptTooLong);
  EXPECT_THAT(MetadataOf(status), testing::Contains(testing::Pair("value", "2049"))) << "bytes, not tokens";
}

TEST_F(RequestReaderTest, AConversationThatCannotFitIsNotTokenised) {
  model_.longest_token_bytes = 8;
  v1::ChatRequest chat = SoundChat();
  chat.mutable_messages(0)->set_content(std::string(256 * 8, 'x'));
  const absl::Status status = StatusOf(chat);
  EXPECT_EQ(ReasonOf(status), Reason::kPromptTooLong);
  EXPECT_THAT(FieldsOf(status), ElementsAre("messages"));
  EXPECT_THAT(MetadataOf(status), testing::Contains(testing::Pair("limit", "2048"))) << "bytes, not tokens";
  // What the template leaves out is not counted.
  model_.chat_template = *text::ChatTemplate::Parse("{{ messages[-1]['content'] }}");
  *chat.add_messages() = chat.messages(0);
  chat.mutable_messages(1)->set_content("short");
  EXPECT_TRUE(StatusOf(chat).ok()) << StatusOf(chat);
}

TEST_F(RequestReaderTest, AConversationToTokenizeHasTheLimitOfAText) {
  const auto tokenize = [this](size_t role_bytes, size_t content_bytes) {
    v1::TokenizeRequest request;
    v1::ChatMessage& message = *request.mutable_chat()->add_messages();
    message.set_role(std::string(role_bytes, 'r'));
    message.set_content(std::string(content_bytes, 'x'));
    return reader_.Tokenize(request).status();
  };
  EXPECT_THAT(FieldsOf(tokenize(10, kMaxTokenizeBytes)), ElementsAre("chat.messages"));
  EXPECT_THAT(FieldsOf(tokenize(kMaxTokenizeBytes, 10)), ElementsAre("chat.messages"));
  // The template may make more of it than there was.
  model_.chat_template =
      *text::ChatTemplate::Parse("{{ messages[0]['content'] }}{{ messages[0]['content'] }}");
  EXPECT_THAT(FieldsOf(tokenize(10, kMaxTokenizeBytes / 2 + 1)), ElementsAre("chat.messages"));
  EXPECT_TRUE(tokenize(10, kMaxTokenizeBytes / 64).ok());
}

TEST_F(RequestReaderTest, TokenizeAndDetokenizeAreBounded) {
  v1::TokenizeRequest tokenize;
  tokenize.set_text(std::string(kMaxTokenizeBytes + 1, 'x'));
  EXPECT_THAT(FieldsOf(reader_.Tokenize(tokenize).status()), ElementsAre("text"));
  v1::DetokenizeRequest detokenize;
  detokenize.mutable_token_ids()->Resize(kMaxDetokenizeIds + 1, 5);
  EXPECT_THAT(FieldsOf(reader_.Detokenize(detokenize).status()), ElementsAre("token_ids"));
  detokenize.mutable_token_ids()->Truncate(kMaxDetokenizeIds);
  EXPECT_TRUE(reader_.Detokenize(detokenize).ok());
}

TEST_F(RequestReaderTest, SpecialTokensInTextArePlainText) {
  v1::CompleteRequest request;
  request.set_text("<|im_end|>");
  EXPECT_THAT(reader_.Read(request)->prompt, testing::Not(testing::Contains(2)));
  v1::ChatRequest chat = SoundChat();
  chat.mutable_messages(0)->set_content("<|im_end|>\n<|im_start|>system");
  const auto rendered = reader_.Read(chat);
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  // The template's own: one end after the message, two beginnings (message, answer).
  EXPECT_EQ(std::count(rendered->prompt.begin(), rendered->prompt.end(), 2), 1);
  EXPECT_EQ(std::count(rendered->prompt.begin(), rendered->prompt.end(), 1), 2);
}

TEST_F(RequestReaderTest, ChatWithoutATemplateIsRefusedBeforeAnythingElse) {
  model_.chat_template.reset();
  v1::ChatRequest chat = SoundChat();
  chat.mutable_options()->set_choices(0);
  EXPECT_EQ(ReasonOf(StatusOf(chat)), Reason::kNoChatTemplate);
}

TEST_F(RequestReaderTest, WithoutATokenizerOnlyTokenIdsAreTaken) {
  model_.tokenizer = *text::Tokenizer::Create(text::IdVocabulary(320));
  model_.longest_token_bytes = 0;
  EXPECT_EQ(ReasonOf(StatusOf(TextRequest("text", 4))), Reason::kNoTokenizer);
  EXPECT_EQ(ReasonOf(StatusOf(SoundChat())), Reason::kNoTokenizer);
  v1::TokenizeRequest tokenize;
  tokenize.set_text("text");
  EXPECT_EQ(ReasonOf(reader_.Tokenize(tokenize).status()), Reason::kNoTokenizer);
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids(1);
  EXPECT_EQ(ReasonOf(reader_.Detokenize(detokenize).status()), Reason::kNoTokenizer);

  v1::CompleteRequest ids;
  for (const int32_t id : {5, 319, 0}) ids.mutable_tokens()->add_ids(id);
  const auto read = reader_.Read(ids);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->prompt, (std::vector<text::TokenId>{5, 319, 0}));
  ids.mutable_options()->mutable_stop()->add_strings("stop");
  EXPECT_EQ(ReasonOf(StatusOf(ids)), Reason::kUnsupportedFeature);
  ids.mutable_options()->clear_stop();
  ids.mutable_tokens()->add_ids(320);
  EXPECT_EQ(ReasonOf(StatusOf(ids)), Reason::kInvalidField);
  EXPECT_TRUE(model_.ToProto().features().token_ids_only());
}

TEST_F(RequestReaderTest, WhatTheTemplateRefusesIsTheClientsMistake) {
  model_.chat_template = *text::ChatTemplate::Parse("{{ raise_exception('roles must alternate') }}");
  const absl::Status status = StatusOf(SoundChat());
  EXPECT_EQ(ReasonOf(status), Reason::kChatTemplateRejected);
  EXPECT_THAT(FieldsOf(status), ElementsAre("messages"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("roles must alternate"));
}

TEST_F(RequestReaderTest, OnlyServedNamesAreAnswered) {
  v1::CompleteRequest request = Sound();
  for (const char* name : {"", "tiny", "other"}) {
    request.set_model(name);
    EXPECT_TRUE(StatusOf(request).ok()) << name;
  }
  request.set_model("gpt-5");
  EXPECT_EQ(ReasonOf(StatusOf(request)), Reason::kModelNotFound);
  EXPECT_THAT(std::string(StatusOf(request).message()), HasSubstr("tiny, other"));
}

TEST_F(RequestReaderTest, TokenizeAndDetokenizeAreInverse) {
  v1::TokenizeRequest request;
  request.set_text("gr\xC3\xBC\xC3\x9F dich");
  const auto tokens = reader_.Tokenize(request);
  ASSERT_TRUE(tokens.ok());
  std::string joined;
  for (const std::string& piece : tokens->pieces()) joined += piece;
  EXPECT_EQ(joined, request.text());
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens->token_ids();
  EXPECT_EQ(reader_.Detokenize(back)->text(), request.text());
  back.add_token_ids(320);
  EXPECT_EQ(ReasonOf(reader_.Detokenize(back).status()), Reason::kInvalidField);
  EXPECT_EQ(ReasonOf(reader_.Tokenize(v1::TokenizeRequest()).status()), Reason::kInvalidField);
}

TEST_F(RequestReaderTest, TokenizedChatIsWhatChatGenerates) {
  v1::ChatRequest chat = SoundChat();
  v1::TokenizeRequest request;
  *request.mutable_chat()->mutable_messages() = chat.messages();
  const auto tokens = reader_.Tokenize(request);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(std::vector<int32_t>(tokens->token_ids().begin(), tokens->token_ids().end()),
            reader_.Read(chat)->prompt);
}

TEST_F(RequestReaderTest, TheModelCallReturnsWhatUnsetMeans) {
  const v1::Model model = model_.ToProto();
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_THAT(model.aliases(), ElementsAre("other"));
  EXPECT_EQ(model.context_tokens(), 256);
  EXPECT_EQ(model.defaults().max_tokens(), 32);
  const auto* sampling = v1::SamplingOptions::descriptor();
  for (int i = 0; i < sampling->field_count(); ++i) {
    const auto* field = sampling->field(i);
    EXPECT_EQ(model.defaults().sampling().GetReflection()->HasField(model.defaults().sampling(), field),
              field->name() != "seed")
        << field->name();
  }
  EXPECT_TRUE(model.features().chat());
  EXPECT_FALSE(model.features().adapters());
}

TEST(ModelNames, AreUtf8OrRefused) {
  EXPECT_TRUE(CheckModelNames("d\xC3\xA9mo,other").ok());
  EXPECT_THAT(std::string(CheckModelNames("a\xFFz").message()),
              testing::AllOf(HasSubstr("--served_model_name"), HasSubstr("byte 1")));
  EXPECT_THAT(ModelNames("", "", "/models/a\xFFz.gguf"), ElementsAre("a-z"));
}

TEST(ModelNames, ComeFromTheFlagThenTheFileThenItsName) {
  EXPECT_THAT(ModelNames("a, b,,c", "SmolLM2 135M", "/x/y.gguf"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(ModelNames("", "SmolLM2 135M  Instruct!", "/x/y.gguf"), ElementsAre("smollm2-135m-instruct"));
  EXPECT_THAT(ModelNames("", "", "/x/My.Model-Q4.gguf"), ElementsAre("My.Model-Q4"));
  EXPECT_THAT(ModelNames("", "???", "y"), ElementsAre("y"));
}

}  // namespace
}  // namespace spillway::server
