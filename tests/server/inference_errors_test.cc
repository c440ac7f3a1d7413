// InferenceService over loopback: what is refused or fails, as clients see it.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

TEST(InferenceErrors, BadFieldsComeAsBadRequestAllAtOnce) {
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

TEST(InferenceErrors, AnUnknownModelIsNotFoundEverywhere) {
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
  // Every call that was refused is counted, whatever its method.
  EXPECT_NE(server.metrics.Scrape().find("spillway_requests_rejected_total{reason=\"MODEL_NOT_FOUND\"} 6\n"),
            std::string::npos);
}

TEST(InferenceErrors, ReservedFieldsAreRefusedByNameOnTheWire) {
  TestServer server;
  v1::CompleteRequest request = TextRequest("x", 1);
  request.mutable_options()->set_adapter("lora");
  const grpc::Status status = ReadAll(*server.stub, request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).reason(), "UNSUPPORTED_FEATURE");
  EXPECT_THAT(DetailsOf(status).fields(), ElementsAre("options.adapter"));
}

TEST(InferenceErrors, BytesThatAreNoMessageAreInvalidArgument) {
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

TEST(InferenceErrors, ACallWithoutAMessageIsInvalid) {
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

TEST(InferenceErrors, AMessageBeyondTheLimitIsRefusedUnread) {
  TestServer server;
  v1::CompleteResponse response;
  const grpc::Status status =
      server.stub->Complete(NewContext().get(), TextRequest(std::string(17 << 20, 'x'), 1), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_TRUE(server.stub->Complete(NewContext().get(), TextRequest("x", 1), &response).ok());
}

TEST(InferenceErrors, AFullQueueIsRefusedBeforeAnyHeaderWithRetryInfo) {
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

TEST(InferenceErrors, GrpcItselfRetriesARefusedCall) {
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

TEST(InferenceErrors, ABusyTokenizerRefusesLongTextOnly) {
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

TEST(InferenceErrors, WhileLoadingEverythingIsNotReady) {
  TestServerOptions options;
  options.serving = false;
  TestServer server(options);
  EXPECT_EQ(DetailsOf(ReadAll(*server.stub, TextRequest("x", 1)).status).reason(), "NOT_READY");
  v1::ListModelsResponse models;
  const grpc::Status status = server.stub->ListModels(NewContext().get(), {}, &models);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(status).reason(), "NOT_READY");
}

TEST(InferenceErrors, DrawsThatGiveNoTokenEndTheirRequestAlone) {
  TestServer server;
  server.executor.SpoilDraws();
  const StreamResult spoilt = ReadAll(*server.stub, TextRequest("x", 5));
  EXPECT_EQ(spoilt.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(spoilt.status.error_message(), testing::HasSubstr("not numbers"));
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  EXPECT_FALSE(server.scheduler->Snapshot().failed) << "the device is well";
}

TEST(InferenceErrors, AFailedDeviceEndsStreamsWithItsReason) {
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

}  // namespace
}  // namespace spillway::server
