// Calls that their client cancels, or whose deadline passes, wherever they are.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "server/call_deadline.h"
#include "server/message_bytes.h"
#include "server/message_call.h"
#include "tests/server/harness.h"
#include "tests/server/raw_client.h"

namespace spillway::server {
namespace {

TEST(EarlyEnd, CancellingFreesTheSequence) {
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

TEST(EarlyEnd, CancellingAUnaryCallFreesItToo) {
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

TEST(EarlyEnd, CallsMadeAndCancelledAtRandomLeaveNothingBehind) {
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

TEST(EarlyEnd, APassedDeadlineStopsTheSequence) {
  TestServer server(RoomForLongOnes());
  // Connected before the clock runs: the deadline is to pass at the server.
  v1::CompleteResponse response;
  ASSERT_TRUE(server.stub->Complete(NewContext().get(), TextRequest("x", 1), &response).ok());
  server.executor.Close();
  const auto context = NewContext(/*timeout_ms=*/1000);
  EXPECT_EQ(server.stub->Complete(context.get(), TextRequest("x", 50'000), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  server.executor.Open();
  EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  // Whichever comes first: the server's own clock, or the client's reset when its clock has run out.
  EXPECT_TRUE(server.Eventually([&] {
    return server.metrics.Scrape().find(
               "spillway_requests_finished_total{code=\"DEADLINE_EXCEEDED\",reason="
               "\"DEADLINE_EXCEEDED\"} 1") != std::string::npos;
  }));
}

TEST(EarlyEnd, AResetAtTheDeadlineIsTheDeadlines) {
  constexpr MonotonicNs kArrivalNs = 1'000'000;
  const auto why = [](int64_t timeout_ms, int64_t left_ms) {
    const MonotonicNs deadline_ns = kArrivalNs + timeout_ms * kNsPerMs;
    return WhyReset(kArrivalNs, deadline_ns, deadline_ns - left_ms * kNsPerMs);
  };
  for (const int64_t timeout_ms : {1, 50, 1'010, 101'000}) {
    EXPECT_EQ(why(timeout_ms, 0), Reason::kDeadlineExceeded);
    EXPECT_EQ(why(timeout_ms, -1), Reason::kDeadlineExceeded);
    EXPECT_EQ(why(timeout_ms, timeout_ms), Reason::kCancelled) << "at its arrival";
    EXPECT_EQ(why(timeout_ms, timeout_ms / 2 + 1), Reason::kCancelled);
  }
  EXPECT_EQ(why(1'010, 9), Reason::kDeadlineExceeded) << "1,001 ms, rounded up";
  EXPECT_EQ(why(101'000, 999), Reason::kDeadlineExceeded) << "100,001 ms, rounded up";
  EXPECT_EQ(why(101'000, 5'000), Reason::kCancelled);
  EXPECT_EQ(why(50, 4), Reason::kDeadlineExceeded) << "on its way";
  EXPECT_EQ(WhyReset(kArrivalNs, 0, kArrivalNs + 1), Reason::kCancelled) << "no deadline";
}

// What a slice of a request's bytes has come to.
struct SliceFate {
  static void Destroy(void* fate) { static_cast<SliceFate*>(fate)->freed = true; }
  std::atomic<bool> freed{false};
};

TEST(EarlyEnd, ACallKeepsItsMessageNoLongerThanItTakesToRead) {
  TestServer server(RoomForLongOnes());
  server.executor.Close();
  std::string message = TextRequest(std::string(30'000, 'x'), 50).SerializeAsString();
  SliceFate fate;
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  {
    // Within the process the very bytes that are sent arrive.
    grpc::GenericStub stub(server.server->InProcessChannel());
    const auto context = NewContext();
    std::unique_ptr<grpc::GenericClientAsyncResponseReader> call;
    {
      const grpc::Slice slice(message.data(), message.size(), &SliceFate::Destroy, &fate);
      const grpc::ByteBuffer request(&slice, 1);
      call = stub.PrepareUnaryCall(context.get(), "/spillway.v1.InferenceService/Complete", request, &queue);
    }
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    EXPECT_TRUE(server.Eventually([&] { return server.Computes(); }));
    EXPECT_TRUE(server.Eventually([&] { return fate.freed.load(); }));
    EXPECT_FALSE(server.AtRest()) << "the call goes on";
    server.executor.Open();
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
}

TEST(EarlyEnd, ADeadlineWithoutEndIsNone) {
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

TEST(EarlyEnd, ATextWhoseCallerLeftIsNotTokenised) {
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

// A service of one method that counts how often it has read a request.
class CountingService final : public MessageService {
 public:
  CountingService(TextPool& pool, CallWaits& waits) : MessageService("test.Counting", waits) {
    AddMethod("Read", [this, &pool, &waits](grpc::CallbackServerContext& context, Caller /*anybody*/) {
      const auto work = [this, &pool, &context](AnswerCall& answer, const grpc::ByteBuffer&) {
        answer.AnswerWith(pool, [this] {
          ++reads;
          return SerializeMessage(v1::TokenizeResponse());
        });
        last = &context;
        ++calls;
      };
      auto* const call = new AnswerCall(waits, context, Caller(), work, /*telemetry=*/nullptr, "Read");
      call->Begin();
      return call;
    });
  }
  std::atomic<grpc::CallbackServerContext*> last{nullptr};
  std::atomic<int> calls{0};  // that wait for the pool, or did
  std::atomic<int> reads{0};
};

TEST(EarlyEnd, ATextWhoseCallEndedIsNotReadForAnAnswer) {
  CallWaits waits{CallTimeouts(std::chrono::seconds(60)), CallTimeouts(std::chrono::seconds(60))};
  TextPool pool({.threads = 1});
  CountingService service(pool, waits);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  grpc::GenericStub stub(server->InProcessChannel({}));
  const std::string text(kInlineRequestBytes + 1, 'x');
  const grpc::Slice slice(text);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  int calls = 0;
  // Of these the first is in time, the second is cancelled while it waits and the third's deadline passes.
  for (const auto& [timeout_ms, cancels, code] : {std::tuple{20'000, false, grpc::StatusCode::OK},
                                                  {20'000, true, grpc::StatusCode::CANCELLED},
                                                  {500, false, grpc::StatusCode::DEADLINE_EXCEEDED}}) {
    std::promise<void> release;
    ASSERT_TRUE(pool.Submit(1, [released = release.get_future().share()] { released.wait(); }).ok());
    const auto context = NewContext(timeout_ms);
    const auto call = stub.PrepareUnaryCall(context.get(), "/test.Counting/Read", request, &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, nullptr);
    ++calls;
    while (service.calls < calls) std::this_thread::yield();
    if (cancels) context->TryCancel();
    if (code == grpc::StatusCode::OK) release.set_value();
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    if (code == grpc::StatusCode::OK) continue;
    while (!service.last.load()->IsCancelled()) std::this_thread::yield();
    release.set_value();
  }
  server->Shutdown();
  server->Wait();
  EXPECT_EQ(service.reads, 1);
}

}  // namespace
}  // namespace spillway::server
