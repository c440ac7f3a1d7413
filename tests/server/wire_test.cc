// Bytes to messages, and errors to gRPC statuses.
#include "absl/strings/match.h"
#include "base/reason.h"
#include "gmock/gmock.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.pb.h"
#include "gtest/gtest.h"
#include "server/error_status.h"
#include "server/message_bytes.h"
#include "spillway/v1/inference.pb.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

grpc::ByteBuffer Bytes(const std::string& text) {
  const grpc::Slice slice(text);
  return grpc::ByteBuffer(&slice, 1);
}

// A length-delimited field by hand: protobuf's own serialiser would complain about bad UTF-8.
std::string Field(int number, const std::string& value) {
  std::string bytes(1, static_cast<char>(number << 3 | 2));
  size_t length = value.size();
  for (; length >= 0x80; length >>= 7) bytes += static_cast<char>(length | 0x80);
  bytes += static_cast<char>(length);
  return bytes + value;
}

TEST(MessageBytes, RoundTrips) {
  v1::CompleteRequest in;
  in.set_text("h\xC3\xA9llo");
  in.mutable_options()->set_max_tokens(3);
  v1::CompleteRequest out;
  ASSERT_TRUE(ParseMessage(SerializeMessage(in), &out).ok());
  EXPECT_EQ(out.SerializeAsString(), in.SerializeAsString());
}

TEST(MessageBytes, AnEmptyMessageIsGood) {
  v1::ListModelsRequest out;
  EXPECT_TRUE(ParseMessage(SerializeMessage(v1::ListModelsRequest()), &out).ok());
  EXPECT_TRUE(ParseMessage(grpc::ByteBuffer(), &out).ok());
}

TEST(MessageBytes, ASlicedMessageIsRead) {
  v1::CompleteRequest in;
  in.set_text(std::string(1000, 'x'));
  const std::string flat = in.SerializeAsString();
  const grpc::Slice slices[] = {grpc::Slice(flat.substr(0, 2)), grpc::Slice(flat.substr(2, 500)),
                                grpc::Slice(flat.substr(502))};
  v1::CompleteRequest out;
  ASSERT_TRUE(ParseMessage(grpc::ByteBuffer(slices, 3), &out).ok());
  EXPECT_EQ(out.text(), in.text());
}

TEST(MessageBytes, EveryFieldWithBadUtf8IsNamed) {
  // ChatRequest: model = 1, messages = 2 {role = 1, content = 2}.
  const std::string bytes = Field(1, "m\xFF") + Field(2, Field(1, "user") + Field(2, "fine")) +
                            Field(2, Field(1, "us\xC3") + Field(2, "ab\x80"));
  v1::ChatRequest message;
  const absl::Status status = ParseMessage(Bytes(bytes), &message);
  EXPECT_EQ(ReasonOf(status), Reason::kInvalidField);
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(status)) fields.push_back(violation.field);
  EXPECT_THAT(fields, ElementsAre("model", "messages[1].role", "messages[1].content"));
  EXPECT_THAT(ViolationsOf(status)[2].description, HasSubstr("byte 2"));
}

TEST(MessageBytes, UnknownFieldsAreRefusedByPathAndNumber) {
  // A newer client's: ChatRequest.messages[1] has a field 9, options.sampling a 15, the request itself a 14.
  const std::string bytes = Field(2, Field(1, "user") + Field(2, "fine")) +
                            Field(2, Field(1, "user") + Field(9, "new")) +
                            Field(3, Field(3, Field(15, "x"))) + Field(14, "y");
  v1::ChatRequest message;
  const absl::Status status = ParseMessage(Bytes(bytes), &message);
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupportedFeature);
  std::vector<std::string> fields;
  for (const FieldViolation& violation : ViolationsOf(status)) fields.push_back(violation.field);
  EXPECT_THAT(fields, ElementsAre("#14", "messages[1].#9", "options.sampling.#15"));
  EXPECT_THAT(ViolationsOf(status)[1].description, HasSubstr("field 9 of spillway.v1.ChatMessage"));
}

TEST(MessageBytes, UnknownFieldsInManyPlacesAreBounded) {
  std::string bytes;
  for (int i = 0; i < 5000; ++i) bytes += Field(2, Field(9, "x"));
  v1::ChatRequest message;
  EXPECT_EQ(ViolationsOf(ParseMessage(Bytes(bytes), &message)).size(), 32u);
}

// Millions of empty messages are a few MB on the wire and hundreds as objects.
TEST(MessageBytes, MoreMessagesThanAnyConversationHasAreNotParsed) {
  std::string bytes;
  for (int i = 0; i < (1 << 18); ++i) bytes += Field(2, "");
  v1::ChatRequest message;
  EXPECT_TRUE(ParseMessage(Bytes(bytes), &message).ok());
  EXPECT_EQ(message.messages_size(), 1 << 18);
  bytes += Field(2, "");
  message.Clear();
  const absl::Status status = ParseMessage(Bytes(bytes), &message);
  EXPECT_EQ(ReasonOf(status), Reason::kInvalidField);
  EXPECT_THAT(std::string(status.message()), HasSubstr("262144"));
  EXPECT_EQ(message.messages_size(), 0);
  // Wherever they are: a conversation to tokenise is a level deeper.
  v1::TokenizeRequest tokenize;
  const int chat = v1::TokenizeRequest::kChatFieldNumber;
  std::string conversation;
  for (int i = 0; i < (1 << 18); ++i) conversation += Field(v1::ChatInput::kMessagesFieldNumber, "");
  EXPECT_EQ(ReasonOf(ParseMessage(Bytes(Field(chat, conversation)), &tokenize)), Reason::kInvalidField);
  // What is no message ends the count, and is said to be none.
  bytes += "\xFF\xFF";
  EXPECT_FALSE(ParseMessage(Bytes(bytes), &message).ok());
}

// Two bytes each on the wire: whatever the parser makes an object for counts.
TEST(MessageBytes, PartsOfEveryKindAreCounted) {
  constexpr int kMost = 1 << 18;
  const auto times = [](int n, const std::string& part) {
    std::string out;
    for (int i = 0; i < n; ++i) out += part;
    return out;
  };
  const auto refused_unread = [](const std::string& bytes) {
    v1::TokenizeRequest message;
    const absl::Status status = ParseMessage(Bytes(bytes), &message);
    EXPECT_FALSE(status.ok());
    const bool unread = message.GetReflection()->GetUnknownFields(message).empty();
    EXPECT_EQ(unread, absl::StrContains(status.message(), "262144")) << status;
    return unread;
  };
  const std::string unknown_bytes = Field(15, "");
  const std::string unknown_number("\x78\x00", 2);  // 15, varint
  const std::string unknown_group("\x7B\x7C", 2);   // 15, begin and end
  const std::string text_as_number("\x08\x00", 2);  // 1, which is a string
  for (const std::string& part : {unknown_bytes, unknown_number, unknown_group, text_as_number}) {
    EXPECT_TRUE(refused_unread(times(kMost + 1, part)));
    EXPECT_FALSE(refused_unread(times(kMost, part)));  // read, and refused for what is unknown
  }
  EXPECT_TRUE(refused_unread("\x7B" + times(kMost, unknown_number) + "\x7C"));
  EXPECT_TRUE(refused_unread("\x7B" + times(kMost, unknown_group) + "\x7C"));

  v1::CompleteRequest complete;
  const auto stops = [&](int n) {
    using Options = v1::GenerationOptions;
    return Field(v1::CompleteRequest::kOptionsFieldNumber,
                 Field(Options::kStopFieldNumber, times(n, Field(v1::StopOptions::kStringsFieldNumber, ""))));
  };
  EXPECT_TRUE(ParseMessage(Bytes(stops(kMost - 2)), &complete).ok());
  EXPECT_EQ(ReasonOf(ParseMessage(Bytes(stops(kMost - 1)), &complete)), Reason::kInvalidField);
  // Numbers take no more than their bytes: a prompt's ids are not parts, however they are written.
  v1::DetokenizeRequest ids;
  EXPECT_TRUE(ParseMessage(Bytes(times(kMost + 1, std::string("\x10\x05", 2))), &ids).ok());
  EXPECT_EQ(ids.token_ids_size(), kMost + 1);
}

TEST(MessageBytes, SmallQuestionsAreBounded) {
  grpc::health::v1::HealthCheckRequest request;
  EXPECT_TRUE(ParseSmallMessage(Bytes(Field(1, std::string(60'000, 'x'))), &request).ok());
  EXPECT_EQ(ReasonOf(ParseSmallMessage(Bytes(Field(1, std::string(70'000, 'x'))), &request)),
            Reason::kInvalidField);
}

TEST(MessageBytes, BadUtf8InManyPlacesIsBounded) {
  std::string bytes;
  for (int i = 0; i < 5000; ++i) bytes += Field(2, Field(1, "\xFF"));
  v1::ChatRequest message;
  EXPECT_LE(ViolationsOf(ParseMessage(Bytes(bytes), &message)).size(), 32);
}

TEST(MessageBytes, WhatIsNoMessageIsSaidToBeNone) {
  v1::CompleteRequest message;
  for (const std::string& bytes :
       {std::string("\xFF\xFF\xFF\xFF"), std::string("\x12\x7Fshort"), std::string(1, '\0')}) {
    const absl::Status status = ParseMessage(Bytes(bytes), &message);
    EXPECT_EQ(ReasonOf(status), Reason::kInvalidField);
    EXPECT_THAT(std::string(status.message()), HasSubstr("spillway.v1.CompleteRequest"));
  }
}

TEST(ErrorStatus, EveryReasonHasItsCodeAndInfo) {
  for (const ReasonInfo& info : AllReasons()) {
    const grpc::Status status = ToGrpcStatus(MakeError(info.reason, "because", {{"limit", "7"}}), 1234);
    const ErrorDetails details = DetailsOf(status);
    EXPECT_EQ(static_cast<int>(status.error_code()), static_cast<int>(info.code)) << info.name;
    EXPECT_EQ(status.error_message(), "because");
    ASSERT_TRUE(details.info.has_value());
    EXPECT_EQ(details.info->reason(), info.name);
    EXPECT_EQ(details.info->domain(), "spillway.dev");
    EXPECT_THAT(details.info->metadata(), UnorderedElementsAre(Pair("limit", "7")));
    EXPECT_EQ(details.retry.has_value(), info.retryable) << info.name;
    EXPECT_EQ(details.bad_request.has_value(), info.code == absl::StatusCode::kInvalidArgument) << info.name;
  }
}

TEST(ErrorStatus, RetryInfoIsTheQueuesEstimate) {
  const ErrorDetails details = DetailsOf(ToGrpcStatus(MakeError(Reason::kQueueFull, "full"), 1234));
  EXPECT_EQ(details.retry->retry_delay().seconds(), 1);
  EXPECT_EQ(details.retry->retry_delay().nanos(), 234'000'000);
}

TEST(ErrorStatus, ForeignErrorsAreInternal) {
  const grpc::Status status = ToGrpcStatus(absl::UnknownError("what?"), 0);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(DetailsOf(status).reason(), "INTERNAL");
}

TEST(ErrorStatus, DetailsFitAClientsMetadata) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < 500; ++i) {
    violations.push_back({"options.stop.strings[" + std::to_string(i) + "]", std::string(400, 'x')});
  }
  const grpc::Status status = ToGrpcStatus(MakeFieldError(violations), 0);
  // Base64 and percent-encoding included.
  EXPECT_LT(status.error_details().size() * 4 / 3 + status.error_message().size() * 3, 8000u);
  const ErrorDetails details = DetailsOf(status);
  const auto& last = details.bad_request->field_violations().rbegin();
  EXPECT_THAT(last->description(), HasSubstr("more"));
}

TEST(ErrorStatus, TextsAreMadeWholeUtf8) {
  const grpc::Status status = ToGrpcStatus(MakeError(Reason::kInternal, "bad \xFF byte"), 0);
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.message(), "bad \xEF\xBF\xBD byte");
}

}  // namespace
}  // namespace spillway::server
