#include "server/call_labels.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kSpan[] = "b7ad6b7169203331";

std::string Traceparent(const std::string& version, const std::string& trace, const std::string& span,
                        const std::string& flags) {
  return version + "-" + trace + "-" + span + "-" + flags;
}

TEST(Traceparent, WhatTheRecommendationAllowsIsRead) {
  for (const std::string& good :
       {Traceparent("00", kTrace, kSpan, "01"), Traceparent("00", kTrace, kSpan, "00"),
        Traceparent("cc", kTrace, kSpan, "01"),
        Traceparent("01", kTrace, kSpan, "01") + "-what-the-future-brings"}) {
    EXPECT_EQ(ParseTraceparent(good).trace_id, kTrace) << good;
    EXPECT_EQ(ParseTraceparent(good).parent_span_id, kSpan) << good;
  }
}

TEST(Traceparent, WhatItDoesNotIsLeftOut) {
  const std::string good = Traceparent("00", kTrace, kSpan, "01");
  for (const std::string& bad :
       {std::string(), std::string("00"), good + "-more", good.substr(1), good + "0",
        Traceparent("ff", kTrace, kSpan, "01"), Traceparent("00", std::string(32, '0'), kSpan, "01"),
        Traceparent("00", kTrace, std::string(16, '0'), "01"),
        Traceparent("00", "0AF7651916CD43DD8448EB211C80319C", kSpan, "01"),
        Traceparent("0x", kTrace, kSpan, "01"), Traceparent("00", kTrace, "b7ad6b716920333\n", "01"),
        Traceparent("01", kTrace, kSpan, "01") + "x", std::string(55, '-'), std::string(4000, '0')}) {
    EXPECT_EQ(ParseTraceparent(bad).trace_id, "") << bad.substr(0, 80);
    EXPECT_EQ(ParseTraceparent(bad).parent_span_id, "") << bad.substr(0, 80);
  }
}

// Lines are written by a thread of their own, which the server's end joins.
std::string LogOf(const std::function<void(TestServer&)>& calls) {
  testing::internal::CaptureStderr();
  {
    TestServer server(RoomForLongOnes());
    calls(server);
  }
  return testing::internal::GetCapturedStderr();
}

TEST(RequestLine, CarriesTheTraceAndTheNameOfTheCall) {
  const std::string log = LogOf([](TestServer& server) {
    const auto context = NewContext();
    context->AddMetadata("traceparent", Traceparent("00", kTrace, kSpan, "01"));
    context->AddMetadata("x-request-id", "from-the-proxy");
    v1::CompleteResponse response;
    EXPECT_TRUE(server.stub->Complete(context.get(), TextRequest("secret words", 3), &response).ok());
    EXPECT_EQ(response.request_id(), "from-the-proxy");
  });
  EXPECT_THAT(log, HasSubstr(std::string("trace_id=") + kTrace));
  EXPECT_THAT(log, HasSubstr(std::string("parent_span_id=") + kSpan));
  EXPECT_THAT(log, HasSubstr("request_id=from-the-proxy"));
  EXPECT_THAT(log, HasSubstr("generated_tokens=3"));
  EXPECT_THAT(log, HasSubstr("resident_kv_tokens="));
  EXPECT_THAT(log, Not(HasSubstr("secret")));
}

TEST(RequestLine, IsThereForACancelledAndForARefusedCallToo) {
  const std::string log = LogOf([](TestServer& server) {
    const auto context = NewContext();
    context->AddMetadata("traceparent", Traceparent("00", kTrace, kSpan, "01"));
    context->AddMetadata("x-request-id", "cancelled-one");
    const auto reader = server.stub->StreamComplete(context.get(), TextRequest("secret words", 50'000));
    v1::StreamEvent event;
    ASSERT_TRUE(reader->Read(&event));
    context->TryCancel();
    EXPECT_FALSE(reader->Finish().ok());
    EXPECT_TRUE(server.Eventually([&] { return server.AtRest(); }));
    const auto refused = NewContext();
    refused->AddMetadata("x-request-id", "refused-one");
    v1::CompleteRequest request = TextRequest("secret words", 3);
    request.mutable_options()->mutable_sampling()->set_top_p(7);
    v1::CompleteResponse response;
    EXPECT_FALSE(server.stub->Complete(refused.get(), request, &response).ok());
  });
  EXPECT_THAT(log, HasSubstr("request finished request_id=cancelled-one"));
  EXPECT_THAT(log, HasSubstr("reason=CANCELLED"));
  EXPECT_THAT(log, HasSubstr("request refused request_id=refused-one"));
  EXPECT_THAT(log, HasSubstr(std::string("trace_id=") + kTrace));
  EXPECT_THAT(log, Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace spillway::server
