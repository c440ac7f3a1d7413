// Clients that read late or never, or send a message halfway.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/harness.h"
#include "tests/server/raw_client.h"

namespace spillway::server {
namespace {

TEST(SlowClient, ASlowReaderPausesItselfAloneAndEndsAborted) {
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

TEST(SlowClient, APausedReaderKeepsNobodyOutAndLosesNothing) {
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

TEST(SlowClient, AStreamThatEndedUnreadIsGivenUp) {
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

TEST(SlowClient, AnUnaryAnswerThatIsNotReadIsGivenUp) {
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

TEST(SlowClient, AnswersBesideUnreadOnesAreBoundedInBytes) {
  TestServerOptions options;
  options.unread_bytes_per_caller = 100'000;
  TestServer server(options);
  v1::TokenizeRequest large, small;
  large.set_text(std::string(20'000, 'x'));
  small.set_text(std::string(500, 'x'));
  v1::TokenizeResponse response;
  ASSERT_TRUE(server.stub->Tokenize(NewContext().get(), large, &response).ok());
  ASSERT_GT(response.ByteSizeLong(), 65'535U) << "more than HTTP/2's first window";
  UnreadAnswers& unread = server.server->waits().answers;
  ASSERT_TRUE(server.Eventually([&] { return unread.bytes() == 0; }));
  {
    RawClient client(server.server->address());
    client.Send("/spillway.v1.InferenceService/Tokenize", large.SerializeAsString());
    ASSERT_TRUE(server.Eventually([&] { return unread.bytes() > 65'535; })) << "one of any size is kept";
    const int64_t of_one = unread.bytes();
    while (unread.bytes() < 100'000 - 4096) {  // as many as there is room for
      const int64_t before = unread.bytes();
      client.Send("/spillway.v1.InferenceService/Tokenize", small.SerializeAsString());
      if (!server.Eventually([&] { return unread.bytes() > before; })) break;
    }
    EXPECT_GT(unread.bytes(), of_one);
    EXPECT_LE(unread.bytes(), 100'000);
    small.set_text(std::string(8000, 'x'));
    client.Send("/spillway.v1.InferenceService/Tokenize", small.SerializeAsString());
    EXPECT_TRUE(client.EndsUnanswered());
    EXPECT_THAT(server.metrics.Scrape(),
                testing::HasSubstr("spillway_requests_rejected_total{reason=\"ANSWERS_UNREAD\"} 1\n"));
    // Others have their own.
    EXPECT_TRUE(server.stub->Tokenize(NewContext().get(), large, &response).ok());
  }
  EXPECT_TRUE(server.Eventually([&] { return unread.bytes() == 0; })) << "its connection is gone";
}

TEST(SlowClient, AMessageThatDoesNotComeWholeIsGivenUp) {
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

}  // namespace
}  // namespace spillway::server
