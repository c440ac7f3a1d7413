// Calls with tokens: who is let in, whose limits count, and what one tenant may learn of another.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/sha256.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/token_file.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

using grpc::StatusCode;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

std::string Entry(const std::string& token, const std::string& tenant, const std::string& role = "user") {
  const Sha256Digest digest = Sha256(token);
  return absl::StrCat(
      "{\"sha256\": \"",
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size())),
      "\", \"tenant\": \"", tenant, "\", \"role\": \"", role, "\"}");
}

class AccessTest : public testing::Test {
 protected:
  AccessTest() : path_(testing::TempDir() + std::to_string(getpid()) + "_access.json") {
    Write("{}");
    auto tokens = TokenFile::Load(path_);
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    tokens_ = *std::move(tokens);
    TestServerOptions options = RoomForLongOnes();
    options.tokens = tokens_.get();
    server_ = std::make_unique<TestServer>(options);
  }
  ~AccessTest() override {
    server_.reset();
    std::remove(path_.c_str());
  }

  void Write(const std::string& tenants) {
    std::ofstream(path_) << "{\"schema_version\": 1, \"tenants\": " << tenants << ", \"tokens\": ["
                         << Entry("user-a", "acme") << "," << Entry("user-b", "bolt") << ","
                         << Entry("admin", "operations", "admin") << "]}";
  }
  void Limit(const std::string& tenants) {
    Write(tenants);
    tokens_->Reload();
    ASSERT_EQ(tokens_->counts().taken, 1);
  }

  // With an authorization where `value` is not empty.
  static std::unique_ptr<grpc::ClientContext> With(const std::string& value) {
    auto context = NewContext();
    if (!value.empty()) context->AddMetadata("authorization", value);
    return context;
  }

  grpc::Status Complete(const std::string& authorization, const v1::CompleteRequest& request,
                        v1::CompleteResponse* response = nullptr) {
    v1::CompleteResponse unused;
    return server_->stub->Complete(With(authorization).get(), request,
                                   response == nullptr ? &unused : response);
  }
  grpc::Status Complete(const std::string& authorization) {
    return Complete(authorization, TextRequest("x", 2));
  }

  double Metric(const std::string& series) {
    for (absl::string_view line : absl::StrSplit(server_->metrics.Scrape(), '\n')) {
      if (absl::ConsumePrefix(&line, absl::StrCat(series, " "))) return std::stod(std::string(line));
    }
    return -1;
  }

  const std::string path_;
  std::unique_ptr<TokenFile> tokens_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(AccessTest, OnlyAKnownBearerTokenLetsIn) {
  EXPECT_TRUE(Complete("Bearer user-a").ok());
  EXPECT_TRUE(Complete("bearer user-a").ok()) << "a scheme has no case";
  EXPECT_TRUE(Complete("Bearer admin").ok()) << "an operator may generate too";
  for (const std::string& wrong :
       {std::string(), std::string("Bearer"), std::string("Bearer "), std::string("Bearer user"),
        std::string("Bearer user-a "), std::string("Basic user-a"), std::string("user-a"),
        std::string("Bearer ") + std::string(2000, 'x')}) {
    const grpc::Status status = Complete(wrong);
    EXPECT_EQ(status.error_code(), StatusCode::UNAUTHENTICATED) << wrong.substr(0, 40);
    EXPECT_EQ(DetailsOf(status).reason(), "UNAUTHENTICATED");
    EXPECT_FALSE(DetailsOf(status).retry.has_value());
  }
  const auto twice = With("Bearer user-a");
  twice->AddMetadata("authorization", "Bearer user-b");
  v1::CompleteResponse response;
  EXPECT_EQ(server_->stub->Complete(twice.get(), TextRequest("x", 2), &response).error_code(),
            StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Metric("spillway_requests_rejected_total{reason=\"UNAUTHENTICATED\"}"), 9);
}

TEST_F(AccessTest, EveryCallOfTheInterfaceWantsAToken) {
  v1::TokenizeRequest tokenize;
  tokenize.set_text("x");
  v1::TokenizeResponse tokenized;
  v1::ListModelsResponse models;
  EXPECT_EQ(server_->stub->Tokenize(NewContext().get(), tokenize, &tokenized).error_code(),
            StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(server_->stub->ListModels(NewContext().get(), {}, &models).error_code(),
            StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(server_->stub->ListModels(With("Bearer user-a").get(), {}, &models).ok());
  EXPECT_EQ(ReadAll(*server_->stub, TextRequest("x", 2)).status.error_code(), StatusCode::UNAUTHENTICATED);
  const auto reflection = grpc::reflection::v1::ServerReflection::NewStub(server_->Connect());
  const auto context = NewContext();
  EXPECT_EQ(reflection->ServerReflectionInfo(context.get())->Finish().error_code(),
            StatusCode::UNAUTHENTICATED);
  // Probes have no token.
  const auto health = grpc::health::v1::Health::NewStub(server_->Connect());
  grpc::health::v1::HealthCheckResponse answer;
  EXPECT_TRUE(health->Check(NewContext().get(), {}, &answer).ok());
}

TEST_F(AccessTest, OperatorsCallsWantTheRole) {
  const auto admin = v1::AdminService::NewStub(server_->Connect());
  v1::GetStatusResponse status;
  const grpc::Status refused = admin->GetStatus(With("Bearer user-a").get(), {}, &status);
  EXPECT_EQ(refused.error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(DetailsOf(refused).reason(), "PERMISSION_DENIED");
  EXPECT_EQ(admin->GetStatus(NewContext().get(), {}, &status).error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(admin->GetStatus(With("Bearer admin").get(), {}, &status).ok());
}

TEST_F(AccessTest, ATenantRunsAsManyRequestsAsItMay) {
  Limit("{\"acme\": {\"max_concurrent_requests\": 2}}");
  server_->executor.Close();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::StreamEvent>>> readers;
  v1::StreamEvent event;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(With("Bearer user-a"));
    readers.push_back(server_->stub->StreamComplete(contexts.back().get(), TextRequest("x", 50)));
  }
  ASSERT_TRUE(server_->Eventually([&] { return tokens_->Find("user-a").tenant->running() == 2; }));
  const grpc::Status refused = Complete("Bearer user-a");
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailsOf(refused).reason(), "TENANT_REQUESTS");
  EXPECT_TRUE(DetailsOf(refused).retry.has_value());
  EXPECT_EQ(DetailsOf(refused).info->metadata().at("limit"), "2");
  contexts[0]->TryCancel();
  EXPECT_FALSE(readers[0]->Finish().ok());
  server_->executor.Open();
  EXPECT_TRUE(Complete("Bearer user-b").ok()) << "others are not concerned";
  while (readers[1]->Read(&event)) {
  }
  EXPECT_TRUE(readers[1]->Finish().ok());
  // However they ended, their places are free.
  EXPECT_TRUE(server_->Eventually([&] { return tokens_->Find("user-a").tenant->running() == 0; }));
  EXPECT_TRUE(Complete("Bearer user-a").ok());
}

TEST_F(AccessTest, WhoAsksOneAfterTheOtherIsOneAtATime) {
  Limit("{\"acme\": {\"max_concurrent_requests\": 1}}");
  v1::TokenizeRequest wrong;  // neither text nor messages
  v1::TokenizeResponse tokenized;
  v1::ListModelsResponse models;
  for (int i = 0; i < 300; ++i) {
    const grpc::Status unary = Complete("Bearer user-a");
    ASSERT_TRUE(unary.ok()) << i << ": " << unary.error_message();
    const auto context = With("Bearer user-a");
    const auto reader = server_->stub->StreamComplete(context.get(), TextRequest("x", 2));
    v1::StreamEvent event;
    while (reader->Read(&event)) {
    }
    const grpc::Status streamed = reader->Finish();
    ASSERT_TRUE(streamed.ok()) << i << ": " << streamed.error_message();
    const grpc::Status read = server_->stub->ListModels(With("Bearer user-a").get(), {}, &models);
    ASSERT_TRUE(read.ok()) << i << ": " << read.error_message();
    // A call that is refused has its end too.
    ASSERT_EQ(DetailsOf(Complete("Bearer user-a", v1::CompleteRequest())).reason(), "INVALID_FIELD") << i;
    const grpc::Status refused = server_->stub->Tokenize(With("Bearer user-a").get(), wrong, &tokenized);
    ASSERT_EQ(DetailsOf(refused).reason(), "INVALID_FIELD") << i << ": " << refused.error_message();
  }
  EXPECT_EQ(tokens_->Find("user-a").tenant->running(), 0);
}

TEST_F(AccessTest, WhoAsksReflectionOneAfterTheOtherIsOneAtATime) {
  Limit("{\"acme\": {\"max_concurrent_requests\": 1}}");
  const auto reflection = grpc::reflection::v1::ServerReflection::NewStub(server_->Connect());
  for (int i = 0; i < 300; ++i) {
    const auto context = With("Bearer user-a");
    const auto stream = reflection->ServerReflectionInfo(context.get());
    stream->WritesDone();
    const grpc::Status status = stream->Finish();
    ASSERT_TRUE(status.ok()) << i << ": " << status.error_message();
  }
}

TEST_F(AccessTest, RefusalsAreTheTenantsWhoseTokenWasShown) {
  Limit("{\"acme\": {\"max_concurrent_requests\": 1}}");
  testing::internal::CaptureStderr();
  auto place = tokens_->Find("user-a").tenant->Enter();
  ASSERT_TRUE(place.ok());
  EXPECT_EQ(DetailsOf(Complete("Bearer user-a")).reason(), "TENANT_REQUESTS");
  EXPECT_EQ(Metric("spillway_tenant_requests_total{outcome=\"rejected\",tenant=\"acme\"}"), 1);
  const auto reflection = grpc::reflection::v1::ServerReflection::NewStub(server_->Connect());
  const auto busy = With("Bearer user-a");
  EXPECT_EQ(reflection->ServerReflectionInfo(busy.get())->Finish().error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Metric("spillway_tenant_requests_total{outcome=\"rejected\",tenant=\"acme\"}"), 2);
  EXPECT_EQ(Metric("spillway_requests_rejected_total{reason=\"TENANT_REQUESTS\"}"), 2);
  const auto admin = v1::AdminService::NewStub(server_->Connect());
  v1::GetStatusResponse status;
  EXPECT_EQ(admin->GetStatus(With("Bearer user-b").get(), {}, &status).error_code(),
            StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Metric("spillway_tenant_requests_total{outcome=\"rejected\",tenant=\"bolt\"}"), 1);
  server_.reset();  // the log is written whole
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(
      log,
      ContainsRegex("request refused [^\n]*tenant=acme [^\n]*method=Complete [^\n]*reason=TENANT_REQUESTS"));
  EXPECT_THAT(
      log, ContainsRegex(
               "request refused [^\n]*tenant=acme [^\n]*method=ServerReflectionInfo [^\n]*TENANT_REQUESTS"));
  EXPECT_THAT(
      log, ContainsRegex("request refused [^\n]*tenant=bolt [^\n]*method=GetStatus [^\n]*PERMISSION_DENIED"));
}

TEST_F(AccessTest, WrongTokensAreToldOfWhicheverServiceIsAsked) {
  testing::internal::CaptureStderr();
  const auto ask = [&](auto stub) {
    const auto context = With("Bearer guessed");
    EXPECT_EQ(stub->ServerReflectionInfo(context.get())->Finish().error_code(), StatusCode::UNAUTHENTICATED);
  };
  ask(grpc::reflection::v1::ServerReflection::NewStub(server_->Connect()));
  EXPECT_EQ(Metric("spillway_requests_rejected_total{reason=\"UNAUTHENTICATED\"}"), 1);
  ask(grpc::reflection::v1alpha::ServerReflection::NewStub(server_->Connect()));
  EXPECT_EQ(Metric("spillway_requests_rejected_total{reason=\"UNAUTHENTICATED\"}"), 2);
  server_.reset();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(
      log, ContainsRegex("request refused [^\n]*method=ServerReflectionInfo [^\n]*reason=UNAUTHENTICATED"));
  EXPECT_EQ(log.find("guessed"), std::string::npos) << log;
}

TEST_F(AccessTest, TokensPerMinuteAreOfPromptAndAnswer) {
  Limit("{\"acme\": {\"tokens_per_minute\": 60}}");
  v1::CompleteRequest request = TextRequest("", 40);
  for (int id = 10; id < 30; ++id) request.mutable_tokens()->add_ids(id);
  EXPECT_TRUE(Complete("Bearer user-a", request).ok());
  // 20 + 40 are gone; the record of the end may come a moment later than the answer.
  EXPECT_TRUE(server_->Eventually(
      [&] { return Metric("spillway_tenant_tokens_total{kind=\"generated\",tenant=\"acme\"}") == 40; }));
  const grpc::Status refused = Complete("Bearer user-a", request);
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  const ErrorDetails details = DetailsOf(refused);
  EXPECT_EQ(details.reason(), "TENANT_TOKENS");
  ASSERT_TRUE(details.retry.has_value());
  EXPECT_GT(details.retry->retry_delay().seconds(), 15) << "20 tokens come back in 20 s";
  EXPECT_LE(details.retry->retry_delay().seconds(), 20);
  EXPECT_TRUE(Complete("Bearer user-b", request).ok());
  EXPECT_EQ(Metric("spillway_requests_rejected_total{reason=\"TENANT_TOKENS\"}"), 1);
  EXPECT_EQ(Metric("spillway_tenant_requests_total{outcome=\"rejected\",tenant=\"acme\"}"), 1);
  EXPECT_EQ(Metric("spillway_tenant_requests_total{outcome=\"ok\",tenant=\"acme\"}"), 1);
  EXPECT_EQ(Metric("spillway_tenant_tokens_total{kind=\"prompt\",tenant=\"acme\"}"), 20);
}

TEST_F(AccessTest, NobodySeesThatAnotherTenantAskedTheSame) {
  v1::CompleteRequest request = TextRequest("", 2);
  for (int id = 10; id < 110; ++id) request.mutable_tokens()->add_ids(id);
  v1::CompleteResponse response;
  ASSERT_TRUE(Complete("Bearer user-a", request, &response).ok());
  EXPECT_EQ(response.usage().cached_tokens(), 0);
  ASSERT_TRUE(Complete("Bearer user-a", request, &response).ok());
  EXPECT_GT(response.usage().cached_tokens(), 0) << "a tenant's own requests share";
  ASSERT_TRUE(Complete("Bearer user-b", request, &response).ok());
  EXPECT_EQ(response.usage().cached_tokens(), 0);
  // Nor does a salt that looks like the other's.
  request.mutable_options()->set_cache_salt("acme");
  ASSERT_TRUE(Complete("Bearer user-b", request, &response).ok());
  EXPECT_EQ(response.usage().cached_tokens(), 0);
}

TEST_F(AccessTest, TakenBackTokensEndWithTheNextCall) {
  EXPECT_TRUE(Complete("Bearer user-a").ok());
  std::ofstream(path_) << "{\"schema_version\": 1, \"tokens\": [" << Entry("next", "acme") << "]}";
  tokens_->Reload();
  EXPECT_EQ(Complete("Bearer user-a").error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(Complete("Bearer next").ok());
}

}  // namespace
}  // namespace spillway::server
