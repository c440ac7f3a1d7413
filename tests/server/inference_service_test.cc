// InferenceService over loopback: the order of events, errors on the wire, cancellation, slow readers.
#include <atomic>
#include <future>
#include <set>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "gtest/gtest.h"
#include "server/message_bytes.h"
#include "tests/server/harness.h"
#include "tests/server/raw_client.h"

namespace spillway::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// What the documented order of a stream's events demands; empty when it is kept.
std::string OrderFault(const std::vector<v1::StreamEvent>& events, int n_choices) {
  if (events.empty() || !events.front().has_started()) return "started is not the first event";
  if (!events.back().has_usage()) return "usage is not the last event";
  std::set<int> finished;
  for (size_t i = 1; i + 1 < events.size(); ++i) {
    const v1::StreamEvent& event = events[i];
    if (event.has_started() || event.has_usage()) return "started or usage in the middle";
    if (event.has_delta() && finished.count(event.delta().index()) > 0) return "a delta after its finished";
    if (event.has_finished() && !finished.insert(event.finished().index()).second) return "finished twice";
  }
  return static_cast<int>(finished.size()) == n_choices ? "" : "not every choice finished";
}

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

TEST(InferenceService, BadFieldsComeAsBadRequestAllAtOnce) {
  TestServer server;
  v1::CompleteRequest request;
  request.mutable_options()->set_choices(0);
  request.mutable_options()->mutable_sampling()->set_top_p(7);
  const StreamResult streamed = ReadAll(*server.stub, request);
  v1::CompleteResponse response;
  const grpc::Status unary = server.stub->Complete(NewContext().get(), request, &response);
  for (const grpc::Status& status : {streamed.status, unary}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    const ErrorDetails details = DetailsOf(status);
    EXPECT_EQ(details.reason(), "INVALID_FIELD");
    EXPECT_THAT(details.fields(),
                UnorderedElementsAre("prompt", "options.choices", "options.sampling.top_p"));
    EXPECT_FALSE(details.retry.has_value());
  }
  EXPECT_THAT(streamed.events, SizeIs(0));
}

TEST(InferenceService, AnUnknownModelIsNotFoundEverywhere) {
  TestServer server;
  const auto check = [](const grpc::Status& status) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(DetailsOf(status).reason(), "MODEL_NOT_FOUND");
  };
  v1::CompleteRequest complete = TextRequest("x", 1);
  complete.set_model("nobody");
  v1::CompleteResponse complete_response;
  check(server.stub->Complete(NewContext().get(), complete, &complete_response));
  check(ReadAll(*server.stub, complete).status);
  v1::ChatRequest chat;
  chat.set_model("nobody");
  v1::ChatResponse chat_response;
  check(server.stub->Chat(NewContext().get(), chat, &chat_response));
  v1::TokenizeRequest tokenize;
  tokenize.set_model("nobody");
  v1::TokenizeResponse tokenize_response;
  check(server.stub->Tokenize(NewContext().get(), tokenize, &tokenize_response));
  v1::DetokenizeRequest detokenize;
  detokenize.set_model("nobody");
  v1::DetokenizeResponse detokenize_response;
  check(server.stub->Detokenize(NewContext().get(), detokenize, &detokenize_response));
  v1::GetModelRequest get;
  get.set_model("nobody");
  v1::GetModelResponse got;
  check(server.stub->GetModel(NewContext().get(), get, &got));
  get.set_model("other");
  EXPECT_TRUE(server.stub->GetModel(NewContext().get(), get, &got).ok());
  EXPECT_EQ(got.model().name(), "tiny");
}

TEST(InferenceService, ReservedFieldsAreRefusedByNameOnTheWire) {
  TestServer server;
  v1::CompleteRequest request = TextRequest("x", 1);
  request.mutable_options()->set_adapter("lora");
  const grpc::Status status = ReadAll(*server.stub, request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).reason(), "UNSUPPORTED_FEATURE");
  EXPECT_THAT(DetailsOf(status).fields(), ElementsAre("options.adapter"));
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

TEST(InferenceService, BytesThatAreNoMessageAreInvalidArgument) {
  TestServer server;
  const auto channel = server.Connect();
  // text = 2 with a lone continuation byte.
  for (const auto& [bytes, field] :
       {std::pair{std::string("\x12\x02h\x80"), "text"}, {std::string("\xFF\xFF"), ""}}) {
    for (const char* method : {"Complete", "StreamComplete"}) {
      const grpc::Slice slice(bytes);
      const grpc::ByteBuffer request(&slice, 1);
      const auto context = NewContext();
      const std::string path = std::string("/spillway.v1.InferenceService/") + method;
      grpc::GenericStub generic(channel);
      grpc::CompletionQueue queue;
      const auto call = generic.PrepareUnaryCall(context.get(), path, request, &queue);
      call->StartCall();
      grpc::ByteBuffer response;
      grpc::Status status;
      call->Finish(&response, &status, nullptr);
      void* tag = nullptr;
      bool ok = false;
      ASSERT_TRUE(queue.Next(&tag, &ok));
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
      EXPECT_THAT(DetailsOf(status).fields(), ElementsAre(field));
    }
  }
}

TEST(InferenceService, AFullQueueIsRefusedBeforeAnyHeaderWithRetryInfo) {
  TestServerOptions options;
  options.scheduler.max_queue = 1;
  options.scheduler.max_sequences = 1;
  TestServer server(options);
  server.executor.Close();
  // One runs, one waits.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::StreamEvent>>> readers;
  const auto start = [&] {
    contexts.push_back(NewContext());
    readers.push_back(server.stub->StreamComplete(contexts.back().get(), TextRequest("x", 50)));
  };
  start();
  ASSERT_TRUE(server.Eventually([&] { return server.Computes(); }));
  start();
  ASSERT_TRUE(server.Eventually([&] { return server.scheduler->Snapshot().waiting_requests == 1; }));

  const auto context = NewContext();
  const auto reader = server.stub->StreamComplete(context.get(), TextRequest("y", 5));
  v1::StreamEvent event;
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const ErrorDetails details = DetailsOf(status);
  EXPECT_EQ(details.reason(), "QUEUE_FULL");
  EXPECT_EQ(details.info->metadata().at("limit"), "1");
  ASSERT_TRUE(details.retry.has_value());
  const auto& trailers = context->GetServerTrailingMetadata();
  ASSERT_EQ(trailers.count("grpc-retry-pushback-ms"), 1u);
  ASSERT_EQ(trailers.count("retry-after"), 1u);
  EXPECT_GE(std::stoi(std::string(trailers.find("retry-after")->second.data(),
                                  trailers.find("retry-after")->second.size())),
            1);
  EXPECT_TRUE(context->GetServerInitialMetadata().empty());
  server.executor.Open();
}

TEST(InferenceService, GrpcItselfRetriesARefusedCall) {
  TestServerOptions options;
  options.serving = false;
  TestServer server(options);
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(R"({"methodConfig": [{"name": [{"service": "spillway.v1.InferenceService"}],
      "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
                      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}}]})");
  const auto stub = v1::InferenceService::NewStub(server.Connect(arguments));
  std::thread loader([&] {
    // The first attempt is refused (NOT_READY); then the model is there.
    EXPECT_TRUE(server.Eventually([&] {
      return server.metrics.Scrape().find("spillway_requests_rejected_total{reason=\"NOT_READY\"} 1") !=
             std::string::npos;
    }));
    server.state.Publish(&server.backend);
    server.state.Enter(ServerPhase::kServing);
  });
  const StreamResult result = ReadAll(*stub, TextRequest("x", 5));
  loader.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(OrderFault(result.events, 1), "");
}

TEST(InferenceService, ABusyTokenizerRefusesLongTextOnly) {
  TestServerOptions options;
  options.text_pool = {.threads = 1, .max_jobs = 1};
  TestServer server(options);
  std::atomic<bool> release{false};
  ASSERT_TRUE(server.text_pool
                  .Submit(1,
                          [&] {
                            while (!release) std::this_thread::yield();
                          })
                  .ok());
  const grpc::Status refused = ReadAll(*server.stub, TextRequest(std::string(3000, 'x'), 1)).status;
  EXPECT_EQ(DetailsOf(refused).reason(), "TOKENIZER_BUSY");
  EXPECT_TRUE(DetailsOf(refused).retry.has_value());
  EXPECT_TRUE(ReadAll(*server.stub, TextRequest("short", 1)).status.ok());
  release = true;
}

// Room for generations that are far from done when something happens to them.
TestServerOptions RoomForLongOnes() {
  TestServerOptions options;
  options.scheduler.context_tokens = 60'000;
  options.n_blocks = 40'000;
  return options;
}

TEST(InferenceService, CancellingFreesTheSequence) {
  TestServer server(RoomForLongOnes());
  server.executor.Close();
  const auto context = NewContext();
  const auto reader = server.stub->StreamComplete(context.get(), TextRequest("to be cancelled", 50'000));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  ASSERT_TRUE(server.Eventually([&] { return server.Computes(); }));
  context->TryCancel();
  server.executor.Open();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  EXPECT_TRUE(server.Eventually([&] {
    return server.metrics.Scrape().find(
               "spillway_requests_finished_total{code=\"CANCELLED\",reason=\"CANCELLED\"} 1") !=
           std::string::npos;
  }));
}

TEST(InferenceService, CancellingAUnaryCallFreesItToo) {
  TestServer server(RoomForLongOnes());
  server.executor.Close();
  const auto context = NewContext();
  std::thread canceller([&] {
    EXPECT_TRUE(server.Eventually([&] { return server.Computes(); }));
    context->TryCancel();
    server.executor.Open();
  });
  v1::CompleteResponse response;
  EXPECT_EQ(server.stub->Complete(context.get(), TextRequest("x", 50'000), &response).error_code(),
            grpc::StatusCode::CANCELLED);
  canceller.join();
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
}

TEST(InferenceService, APassedDeadlineStopsTheSequence) {
  TestServer server;
  // Connected before the clock runs: the deadline is to pass at the server.
  v1::CompleteResponse response;
  ASSERT_TRUE(server.stub->Complete(NewContext().get(), TextRequest("x", 1), &response).ok());
  server.executor.Close();
  const auto context = NewContext(/*timeout_ms=*/1000);
  EXPECT_EQ(server.stub->Complete(context.get(), TextRequest("x", 200), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  server.executor.Open();
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  // Which of the two comes first is the network's affair: the server's own clock, or the client's reset when
  // its clock has run out.
  const auto ended = [&](const std::string& reason) {
    const std::string line =
        "spillway_requests_finished_total{code=\"" + reason + "\",reason=\"" + reason + "\"} 1";
    return server.metrics.Scrape().find(line) != std::string::npos;
  };
  EXPECT_TRUE(server.Eventually([&] { return ended("DEADLINE_EXCEEDED") || ended("CANCELLED"); }));
}

TEST(InferenceService, ASlowReaderPausesItselfAloneAndEndsAborted) {
  TestServerOptions options = RoomForLongOnes();
  options.scheduler.slow_reader_timeout_ms = 500;
  TestServer server(options);
  grpc::ChannelArguments arguments;  // the least that HTTP/2 lets a reader buffer
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  const auto stub = v1::InferenceService::NewStub(server.Connect(arguments));
  v1::CompleteRequest request = TextRequest("x", 50'000);
  request.mutable_options()->set_logprobs(20);  // many bytes a token
  const auto context = NewContext(60'000);
  const auto reader = stub->StreamComplete(context.get(), request);
  ASSERT_TRUE(server.Eventually([&] { return server.scheduler->Snapshot().paused_sequences == 1; }));
  // Meanwhile others are served.
  EXPECT_TRUE(ReadAll(*server.stub, TextRequest("y", 20)).status.ok());
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  v1::StreamEvent event;
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(DetailsOf(status).reason(), "SLOW_READER");
}

// A channel whose client reads no more than it must: the rest stays at the server.
std::unique_ptr<v1::InferenceService::Stub> LazyStub(TestServer& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  return v1::InferenceService::NewStub(server.Connect(arguments));
}

TEST(InferenceService, APausedReaderKeepsNobodyOutAndLosesNothing) {
  TestServerOptions options = RoomForLongOnes();
  options.scheduler.max_sequences = 1;
  options.scheduler.slow_reader_timeout_ms = 60'000;
  TestServer server(options);
  const auto stub = LazyStub(server);
  v1::CompleteRequest request = TextRequest("x", 3000);
  request.mutable_options()->set_logprobs(20);  // many bytes a token
  const auto context = NewContext(60'000);
  const auto reader = stub->StreamComplete(context.get(), request);
  ASSERT_TRUE(server.Eventually([&] { return server.scheduler->Snapshot().paused_sequences == 1; }));
  // It holds the only place, and would for a minute.
  EXPECT_TRUE(ReadAll(*server.stub, TextRequest("y", 20)).status.ok());
  StreamResult slow;
  v1::StreamEvent event;
  while (reader->Read(&event)) slow.events.push_back(event);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(OrderFault(slow.events, 1), "");
  std::vector<int32_t> ids;
  for (const v1::StreamEvent& each : slow.events) {
    ids.insert(ids.end(), each.delta().token_ids().begin(), each.delta().token_ids().end());
  }
  v1::CompleteResponse whole;
  ASSERT_TRUE(server.stub->Complete(NewContext().get(), TextRequest("x", 3000), &whole).ok());
  EXPECT_EQ(ids,
            std::vector<int32_t>(whole.choices(0).token_ids().begin(), whole.choices(0).token_ids().end()));
  EXPECT_GE(slow.events.back().usage().preemptions(), 1);
}

TEST(InferenceService, AStreamThatEndedUnreadIsGivenUp) {
  TestServerOptions options = RoomForLongOnes();
  options.scheduler.slow_reader_timeout_ms = 100;
  options.unread_timeout = std::chrono::milliseconds(200);
  TestServer server(options);
  const auto stub = LazyStub(server);
  v1::CompleteRequest request = TextRequest("x", 50'000);
  request.mutable_options()->set_logprobs(20);
  const auto context = NewContext(60'000);
  const auto reader = stub->StreamComplete(context.get(), request);
  // Never read: it pauses, ends SLOW_READER, and what is left of it goes too.
  EXPECT_TRUE(server.Eventually([&] { return server.server->waits().unread.cancelled() == 1; }));
  EXPECT_TRUE(server.AtRest());
}

TEST(InferenceService, AnUnaryAnswerThatIsNotReadIsGivenUp) {
  TestServerOptions options;
  options.unread_timeout = std::chrono::milliseconds(200);
  TestServer server(options);
  // More than HTTP/2's first window: its end waits for the client to read. A client library reads by itself,
  // so this one is by hand: it sends its request and nothing more, not even what widens the window.
  v1::TokenizeRequest request;
  request.set_text(std::string(60'000, 'x'));
  RawClient client(server.server->address());
  client.Send("/spillway.v1.InferenceService/Tokenize", request.SerializeAsString());
  EXPECT_TRUE(server.Eventually([&] { return server.server->waits().unread.cancelled() == 1; }));
  // One that is read is none of them.
  v1::TokenizeResponse response;
  EXPECT_TRUE(server.stub->Tokenize(NewContext().get(), request, &response).ok());
  EXPECT_EQ(server.server->waits().unread.cancelled(), 1);
}

TEST(InferenceService, AMessageThatDoesNotComeWholeIsGivenUp) {
  TestServerOptions options;
  options.receive_timeout = std::chrono::milliseconds(100);
  TestServer server(options);
  const std::string message = TextRequest("a prompt", 3).SerializeAsString();
  for (const char* path :
       {"/spillway.v1.InferenceService/Complete", "/spillway.v1.InferenceService/StreamChat",
        "/spillway.v1.InferenceService/Tokenize", "/spillway.v1.AdminService/GetStatus",
        "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}) {
    for (const size_t sent_bytes : {0, 3, 10}) {
      RawClient client(server.server->address());
      client.Send(path, message, {}, sent_bytes);
      EXPECT_TRUE(client.EndsUnanswered()) << path;
    }
  }
  EXPECT_EQ(server.server->waits().receiving.cancelled(), 21);
  // One that comes in time has all the time that it needs afterwards.
  server.executor.Close();
  RawClient slow(server.server->address());
  slow.Send("/spillway.v1.InferenceService/Complete", message);
  const MonotonicNs begin_ns = Clock::Real().NowNs();
  EXPECT_TRUE(server.Eventually([&] { return Clock::Real().NowNs() - begin_ns > 300 * kNsPerMs; }));
  server.executor.Open();
  EXPECT_TRUE(slow.ReadAnswer());
}

TEST(InferenceService, ACallWithoutAMessageIsInvalid) {
  TestServer server;
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(server.Connect());
  for (const char* path :
       {"/spillway.v1.InferenceService/Complete", "/spillway.v1.InferenceService/StreamChat",
        "/spillway.v1.InferenceService/GetModel", "/spillway.v1.AdminService/GetStatus",
        "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}) {
    const auto context = NewContext();
    const auto call = stub.PrepareCall(context.get(), path, &queue);
    void* tag = nullptr;
    bool ok = false;
    call->StartCall(nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok));
    call->WritesDone(nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok));
    grpc::Status status;
    call->Finish(&status, nullptr);
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << path;
    EXPECT_EQ(DetailsOf(status).reason(), "INVALID_FIELD");
  }
}

TEST(InferenceService, AMessageBeyondTheLimitIsRefusedUnread) {
  TestServer server;
  v1::CompleteResponse response;
  const grpc::Status status =
      server.stub->Complete(NewContext().get(), TextRequest(std::string(17 << 20, 'x'), 1), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_TRUE(server.stub->Complete(NewContext().get(), TextRequest("x", 1), &response).ok());
}

TEST(InferenceService, DrawsThatGiveNoTokenEndTheirRequestAlone) {
  TestServer server;
  server.executor.SpoilDraws();
  const StreamResult spoilt = ReadAll(*server.stub, TextRequest("x", 5));
  EXPECT_EQ(spoilt.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(spoilt.status.error_message(), testing::HasSubstr("not numbers"));
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  EXPECT_FALSE(server.scheduler->Snapshot().failed) << "the device is well";
}

TEST(InferenceService, ADeadlineWithoutEndIsNone) {
  TestServer server;
  grpc::ClientContext context;
  // More hours than fit a deadline's nanoseconds.
  context.set_deadline(gpr_timespec{int64_t{1} << 40, 0, GPR_CLOCK_REALTIME});
  v1::CompleteResponse response;
  EXPECT_TRUE(server.stub->Complete(&context, TextRequest("x", 3), &response).ok());
  // As written by hand, in the header's largest unit.
  RawClient client(server.server->address());
  client.Send("/spillway.v1.InferenceService/Complete", TextRequest("x", 3).SerializeAsString(),
              {{"grpc-timeout", "99999999H"}});
  EXPECT_TRUE(client.ReadAnswer());
}

TEST(InferenceService, ATextWhoseCallerLeftIsNotTokenised) {
  TestServerOptions options;
  options.text_pool = {.threads = 1};
  TestServer server(options);
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  ASSERT_TRUE(server.text_pool.Submit(1, [released] { released.wait(); }).ok());
  const MonotonicNs begin_ns = Clock::Real().NowNs();
  const auto context = NewContext(/*timeout_ms=*/20);
  const auto reader = server.stub->StreamComplete(context.get(), TextRequest(std::string(3000, 'x'), 1));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // The server's own clock says so too, a moment later.
  EXPECT_TRUE(server.Eventually([&] { return Clock::Real().NowNs() - begin_ns > 100 * kNsPerMs; }));
  release.set_value();
  // Tokenised, it would have been the scheduler's to refuse, as DEADLINE_UNREACHABLE.
  EXPECT_TRUE(server.Eventually([&] {
    return server.metrics.Scrape().find("spillway_requests_rejected_total{reason=\"DEADLINE_EXCEEDED\"} 1") !=
           std::string::npos;
  }));
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

TEST(InferenceService, CallsMadeAndCancelledAtRandomLeaveNothingBehind) {
  TestServer server;
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&, i] {
      for (int j = 0; j < 30; ++j) {
        const auto context = NewContext();
        const auto reader =
            server.stub->StreamComplete(context.get(), TextRequest(std::string(j * 100, 'q'), 40));
        v1::StreamEvent event;
        for (int reads = (i * 7 + j) % 5; reads > 0 && reader->Read(&event); --reads) {
        }
        context->TryCancel();
        while (reader->Read(&event)) {
        }
        reader->Finish();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  EXPECT_TRUE(ReadAll(*server.stub, TextRequest("still there", 5)).status.ok());
}

TEST(InferenceService, AFailedDeviceEndsStreamsWithItsReason) {
  TestServer server;
  server.executor.Close();
  const auto context = NewContext();
  const auto reader = server.stub->StreamComplete(context.get(), TextRequest("x", 50));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  server.executor.FailVisits();
  server.executor.Open();
  while (reader->Read(&event)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).reason(), "ENGINE_FAILED");
  EXPECT_TRUE(server.Eventually([&] { return server.scheduler->Snapshot().failed; }));
  EXPECT_EQ(DetailsOf(ReadAll(*server.stub, TextRequest("y", 1)).status).reason(), "ENGINE_FAILED");
}

TEST(InferenceService, ModelsAreListedWithDefaultsAndFeatures) {
  TestServer server;
  v1::ListModelsResponse models;
  ASSERT_TRUE(server.stub->ListModels(NewContext().get(), {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).SerializeAsString(), server.model.ToProto().SerializeAsString());
}

TEST(InferenceService, WhileLoadingEverythingIsNotReady) {
  TestServerOptions options;
  options.serving = false;
  TestServer server(options);
  EXPECT_EQ(DetailsOf(ReadAll(*server.stub, TextRequest("x", 1)).status).reason(), "NOT_READY");
  v1::ListModelsResponse models;
  const grpc::Status status = server.stub->ListModels(NewContext().get(), {}, &models);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).reason(), "NOT_READY");
}

}  // namespace
}  // namespace spillway::server
