// InferenceService over loopback: what is answered, and the order of events.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "server/event_writer.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

TEST(InferenceService, AStreamsEventsComeInTheirOrder) {
  TestServer server;
  v1::CompleteRequest request = TextRequest("hello there", 20);
  request.mutable_options()->set_choices(3);
  request.mutable_options()->set_logprobs(2);
  request.mutable_options()->set_request_id("my request");
  request.mutable_options()->mutable_sampling()->set_seed(11);
  const StreamResult result = ReadAll(*server.stub, request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(OrderFault(result.events, 3), "");
  const v1::Started& started = result.events.front().started();
  EXPECT_EQ(started.model(), "tiny");
  EXPECT_EQ(started.seed(), 11u);
  EXPECT_EQ(started.request_id(), "my request");
  EXPECT_EQ(result.events.back().usage().generated_tokens(), 60);
  EXPECT_EQ(result.events.back().usage().prompt_tokens(), started.prompt_tokens());
  for (const v1::StreamEvent& event : result.events) {
    if (!event.has_delta()) continue;
    EXPECT_EQ(event.delta().logprobs_size(), event.delta().token_ids_size());
  }
}

TEST(InferenceService, TheUnaryAnswerIsTheStreamPutTogether) {
  TestServer server;
  v1::CompleteRequest request = TextRequest("the same twice", 30);
  request.mutable_options()->set_choices(2);
  request.mutable_options()->set_logprobs(1);
  request.mutable_options()->mutable_sampling()->set_temperature(1);
  request.mutable_options()->mutable_sampling()->set_seed(3);
  const StreamResult stream = ReadAll(*server.stub, request);
  ASSERT_TRUE(stream.status.ok());
  v1::CompleteResponse folded;
  for (v1::StreamEvent event : stream.events) FoldEvent(event, &folded);

  v1::CompleteResponse unary;
  const auto context = NewContext();
  ASSERT_TRUE(server.stub->Complete(context.get(), request, &unary).ok());
  ASSERT_EQ(unary.choices_size(), 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(unary.choices(i).SerializeAsString(), folded.choices(i).SerializeAsString());
    EXPECT_EQ(unary.choices(i).index(), i);
    EXPECT_EQ(unary.choices(i).token_ids_size(), 30);
  }
  EXPECT_EQ(unary.model(), "tiny");
  EXPECT_EQ(unary.usage().generated_tokens(), 60);
}

TEST(InferenceService, ChatIsTheCompletionOfItsRenderedPrompt) {
  TestServer server;
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("hi");
  chat.mutable_options()->set_max_tokens(10);
  v1::ChatResponse answer;
  ASSERT_TRUE(server.stub->Chat(NewContext().get(), chat, &answer).ok());

  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat()->mutable_messages() = chat.messages();
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(server.stub->Tokenize(NewContext().get(), tokenize, &tokens).ok());
  v1::CompleteRequest complete;
  *complete.mutable_tokens()->mutable_ids() = tokens.token_ids();
  complete.mutable_options()->set_max_tokens(10);
  v1::CompleteResponse completion;
  ASSERT_TRUE(server.stub->Complete(NewContext().get(), complete, &completion).ok());
  EXPECT_EQ(answer.choices(0).SerializeAsString(), completion.choices(0).SerializeAsString());

  const auto context = NewContext();
  const auto reader = server.stub->StreamChat(context.get(), chat);
  v1::StreamEvent event;
  std::string text;
  while (reader->Read(&event)) text += event.delta().text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, answer.choices(0).text());
}

TEST(InferenceService, LongPromptsTakeTheSameWay) {
  TestServerOptions options;
  options.scheduler.context_tokens = 4096;
  options.n_blocks = 4096;
  TestServer server(options);
  std::string text;
  while (text.size() <= 2 * kInlineRequestBytes) text += "ab ";
  const StreamResult result = ReadAll(*server.stub, TextRequest(text.substr(0, 3000), 5));
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(OrderFault(result.events, 1), "");
}

TEST(InferenceService, UnaryCallsReturnSeedAndLabel) {
  TestServer server;
  v1::CompleteRequest request = TextRequest("ab", 4);
  request.mutable_options()->mutable_sampling()->set_temperature(2);
  request.mutable_options()->set_request_id("mine");
  v1::CompleteResponse drawn;
  ASSERT_TRUE(server.stub->Complete(NewContext().get(), request, &drawn).ok());
  EXPECT_NE(drawn.seed(), 0u);
  EXPECT_EQ(drawn.request_id(), "mine");
  // The seed that was drawn gives the same answer again.
  request.mutable_options()->mutable_sampling()->set_seed(drawn.seed());
  v1::CompleteResponse again;
  ASSERT_TRUE(server.stub->Complete(NewContext().get(), request, &again).ok());
  EXPECT_EQ(again.seed(), drawn.seed());
  EXPECT_EQ(again.choices(0).text(), drawn.choices(0).text());
}

TEST(InferenceService, RequestsWithoutAnIdAreGivenOne) {
  TestServer server;
  const StreamResult stream = ReadAll(*server.stub, TextRequest("x", 2));
  ASSERT_TRUE(stream.events[0].has_started());
  EXPECT_EQ(stream.events[0].started().request_id().size(), 16u);
  v1::CompleteResponse unary;
  ASSERT_TRUE(server.stub->Complete(NewContext().get(), TextRequest("x", 2), &unary).ok());
  EXPECT_EQ(unary.request_id().size(), 16u);
  EXPECT_NE(unary.request_id(), stream.events[0].started().request_id());
}

TEST(InferenceService, TheIdThatAProxyGaveIsTaken) {
  TestServer server;
  const auto id_of = [&](absl::string_view metadata, absl::string_view own) {
    const std::unique_ptr<grpc::ClientContext> context = NewContext();
    context->AddMetadata("x-request-id", std::string(metadata));
    v1::CompleteRequest request = TextRequest("x", 2);
    request.mutable_options()->set_request_id(std::string(own));
    v1::CompleteResponse response;
    EXPECT_TRUE(server.stub->Complete(context.get(), request, &response).ok());
    return response.request_id();
  };
  EXPECT_EQ(id_of("7f-proxy", ""), "7f-proxy");
  EXPECT_EQ(id_of("7f-proxy", "mine"), "mine");
  EXPECT_EQ(id_of(std::string(kMaxRequestIdBytes + 1, 'x'), "").size(), 16u);
}

TEST(InferenceService, ALargeUnaryAnswerIsWhole) {
  TestServer server;
  v1::CompleteRequest request = TextRequest("x", 200);
  request.mutable_options()->set_logprobs(20);
  request.mutable_options()->set_choices(8);
  request.mutable_options()->mutable_stop()->set_ignore_eos(true);
  v1::CompleteResponse response;
  const grpc::Status status = server.stub->Complete(NewContext().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GT(response.ByteSizeLong(), size_t{256} << 10) << "serialised beside the delivery thread";
  ASSERT_EQ(response.choices_size(), 8);
  for (const v1::Choice& choice : response.choices()) EXPECT_EQ(choice.logprobs_size(), 200);
}

TEST(InferenceService, ManyStreamsAtOnceAreEachWhole) {
  TestServerOptions options;
  options.n_blocks = 2048;
  TestServer server(options);
  std::vector<std::thread> clients;
  std::atomic<int> good{0};
  for (int i = 0; i < 24; ++i) {
    clients.emplace_back([&, i] {
      const auto stub = v1::InferenceService::NewStub(server.Connect());
      for (int j = 0; j < 10; ++j) {
        // A connection that a busy machine does not make at once is tried again: the streams are what is
        // tested.
        const auto context = NewContext();
        context->set_wait_for_ready(true);
        const auto reader =
            stub->StreamComplete(context.get(), TextRequest("prompt " + std::to_string(i), 10 + j));
        std::vector<v1::StreamEvent> events;
        v1::StreamEvent event;
        while (reader->Read(&event)) events.push_back(event);
        const grpc::Status status = reader->Finish();
        EXPECT_TRUE(status.ok()) << status.error_message();
        good += status.ok() && OrderFault(events, 1).empty() &&
                events.back().usage().generated_tokens() == 10 + j;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 240);
  EXPECT_TRUE(server.AtRest());
}

TEST(InferenceService, ModelsAreListedWithDefaultsAndFeatures) {
  TestServer server;
  v1::ListModelsResponse models;
  ASSERT_TRUE(server.stub->ListModels(NewContext().get(), {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).SerializeAsString(), server.model.ToProto().SerializeAsString());
}

}  // namespace
}  // namespace spillway::server
