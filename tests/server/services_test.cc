// Health, reflection, admin and draining over loopback.
#include <atomic>
#include <chrono>
#include <limits>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "tests/scheduler/profiles.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

HealthCheckRequest HealthOf(const std::string& service) {
  HealthCheckRequest request;
  request.set_service(service);
  return request;
}

TEST(Health, IsNotServingUntilToldOtherwise) {
  TestServerOptions options;
  options.serving = false;
  TestServer server(options);
  const auto stub = Health::NewStub(server.Connect());
  HealthCheckResponse response;
  for (const char* name : {"", "spillway.v1.InferenceService"}) {
    ASSERT_TRUE(stub->Check(NewContext().get(), HealthOf(name), &response).ok());
    EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING) << name;
  }
  server.server->health().SetServing(true);
  for (const char* name : {"", "spillway.v1.InferenceService"}) {
    ASSERT_TRUE(stub->Check(NewContext().get(), HealthOf(name), &response).ok());
    EXPECT_EQ(response.status(), HealthCheckResponse::SERVING) << name;
  }
  EXPECT_EQ(stub->Check(NewContext().get(), HealthOf("nobody"), &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST(Health, WatchersSeeEveryTransition) {
  TestServer server;
  const auto stub = Health::NewStub(server.Connect());
  const auto context = NewContext();
  const auto reader = stub->Watch(context.get(), HealthOf(""));
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server.server->health().SetServing(false);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  server.server->health().SetServing(true);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  context->TryCancel();
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST(Health, AnUnknownServiceCanBeWatched) {
  TestServer server;
  const auto stub = Health::NewStub(server.Connect());
  const auto context = NewContext();
  const auto reader = stub->Watch(context.get(), HealthOf("nobody"));
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
}

// One client cannot take what others need, and who is refused takes the daemon for healthy all the same.
TEST(Health, AConnectionHasSoManyWatches) {
  TestServer server;
  const auto one = Health::NewStub(server.Connect());
  struct Watch {
    std::unique_ptr<grpc::ClientContext> context = NewContext();
    std::unique_ptr<grpc::ClientReader<HealthCheckResponse>> reader;
  };
  HealthCheckResponse response;
  std::vector<Watch> watches(64);
  for (Watch& watch : watches) {
    watch.reader = one->Watch(watch.context.get(), HealthOf(""));
    ASSERT_TRUE(watch.reader->Read(&response));
  }
  const auto answer_of = [](Health::Stub& stub) {
    const auto context = NewContext();
    const auto reader = stub.Watch(context.get(), HealthOf(""));
    HealthCheckResponse unread;
    if (reader->Read(&unread)) {
      context->TryCancel();
      return grpc::StatusCode::OK;
    }
    return reader->Finish().error_code();
  };
  EXPECT_EQ(answer_of(*one), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_TRUE(one->Check(NewContext().get(), HealthOf(""), &response).ok());
  const auto other = Health::NewStub(server.Connect());
  EXPECT_EQ(answer_of(*other), grpc::StatusCode::OK);
  // A place is free again when a watch has ended.
  watches.back().context->TryCancel();
  EXPECT_FALSE(watches.back().reader->Read(&response));
  EXPECT_TRUE(server.Eventually([&] { return answer_of(*one) == grpc::StatusCode::OK; }));
}

TEST(Health, WatchersDoNotHoldUpTheShutdown) {
  TestServer server;
  const auto stub = Health::NewStub(server.Connect());
  const auto context = NewContext();
  const auto reader = stub->Watch(context.get(), HealthOf(""));
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const auto begin = std::chrono::steady_clock::now();
  server.server->Shutdown(std::chrono::seconds(20));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

// The same test for both versions of the protocol.
template <typename Service, typename Request, typename Response>
void CheckReflection(TestServer& server) {
  const auto stub = Service::NewStub(server.Connect());
  const auto context = NewContext();
  const auto stream = stub->ServerReflectionInfo(context.get());
  const auto ask = [&](const Request& request) {
    Response response;
    EXPECT_TRUE(stream->Write(request));
    EXPECT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.original_request().SerializeAsString(), request.SerializeAsString());
    return response;
  };
  Request request;
  request.set_list_services("");
  std::vector<std::string> services;
  const Response listed = ask(request);
  for (const auto& service : listed.list_services_response().service()) services.push_back(service.name());
  EXPECT_THAT(services, UnorderedElementsAre("spillway.v1.InferenceService", "spillway.v1.AdminService",
                                             "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                             "grpc.reflection.v1alpha.ServerReflection"));
  // Every service's file can be had, with all that it imports.
  for (const std::string& service : services) {
    request.set_file_containing_symbol(service);
    const Response response = ask(request);
    ASSERT_GE(response.file_descriptor_response().file_descriptor_proto_size(), 1) << service;
    google::protobuf::FileDescriptorProto file;
    ASSERT_TRUE(file.ParseFromString(response.file_descriptor_response().file_descriptor_proto(0)));
    EXPECT_THAT(service, HasSubstr(file.package()));
  }
  request.set_file_by_filename("google/rpc/status.proto");
  EXPECT_EQ(ask(request).file_descriptor_response().file_descriptor_proto_size(), 2);  // and any.proto
  request.set_file_containing_symbol("spillway.v1.StreamEvent.delta");
  EXPECT_EQ(ask(request).file_descriptor_response().file_descriptor_proto_size(), 1);
  request.set_file_containing_symbol("no.such.Symbol");
  EXPECT_EQ(ask(request).error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_file_by_filename("no/such.proto");
  EXPECT_EQ(ask(request).error_response().error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_all_extension_numbers_of_type("google.protobuf.FieldOptions");
  EXPECT_TRUE(ask(request).has_all_extension_numbers_response());
  request.mutable_file_containing_extension()->set_containing_type("google.protobuf.FieldOptions");
  request.mutable_file_containing_extension()->set_extension_number(99999);
  EXPECT_TRUE(ask(request).has_error_response());
  request.Clear();
  EXPECT_EQ(ask(request).error_response().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST(Reflection, CanBeLeftOut) {
  TestServerOptions options;
  options.reflection = false;
  TestServer server(options);
  const auto stub = grpc::reflection::v1::ServerReflection::NewStub(server.Connect());
  const auto context = NewContext();
  EXPECT_EQ(stub->ServerReflectionInfo(context.get())->Finish().error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST(Admin, CanHaveAPortOfItsOwn) {
  TestServerOptions options;
  options.admin_listen = "127.0.0.1:0";
  TestServer server(options);
  ASSERT_NE(server.server->admin_address(), server.server->address());
  v1::GetStatusResponse response;
  const auto on_clients_port = v1::AdminService::NewStub(server.Connect());
  EXPECT_EQ(on_clients_port->GetStatus(NewContext().get(), {}, &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  const auto own = grpc::CreateChannel(server.server->admin_address(), grpc::InsecureChannelCredentials());
  EXPECT_TRUE(v1::AdminService::NewStub(own)->GetStatus(NewContext().get(), {}, &response).ok());
  EXPECT_EQ(response.state(), v1::SERVER_STATE_SERVING);
  grpc::health::v1::HealthCheckResponse health;
  EXPECT_TRUE(grpc::health::v1::Health::NewStub(own)->Check(NewContext().get(), {}, &health).ok());
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::SERVING)
      << "`spillway status` asks first";
  const auto watch_context = NewContext();
  const auto watch = grpc::health::v1::Health::NewStub(own)->Watch(watch_context.get(), {});
  ASSERT_TRUE(watch->Read(&health)) << "a watch that is there when the server ends";
  v1::ListModelsResponse models;
  EXPECT_EQ(v1::InferenceService::NewStub(own)->ListModels(NewContext().get(), {}, &models).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST(Admin, DrainIsToldOnAndAnsweredAtOnce) {
  TestServer server;
  std::atomic<int> told{0};
  server.server->admin().SetDrain([&told] { ++told; });
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::DrainResponse response;
  testing::internal::CaptureStderr();
  EXPECT_TRUE(stub->Drain(NewContext().get(), {}, &response).ok());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("an admin call what=drain tenant=\"\" peer=ipv4:127.0.0.1:"));
  EXPECT_TRUE(stub->Drain(NewContext().get(), {}, &response).ok()) << "again does no harm";
  EXPECT_EQ(told, 2);
  TestServerOptions loading;
  loading.serving = false;
  TestServer early(loading);
  EXPECT_EQ(v1::AdminService::NewStub(early.Connect())->Drain(NewContext().get(), {}, &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST(Connections, OldOnesAreAskedToGoWhenTheirCallsAreDone) {
  TestServerOptions options;
  options.max_connection_age_ms = 200;
  TestServer server(options);
  const auto channel = server.Connect();
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(20);
  ASSERT_TRUE(channel->WaitForConnected(deadline));
  EXPECT_TRUE(channel->WaitForStateChange(GRPC_CHANNEL_READY, deadline)) << "it is still connected";
  // The client connects anew by itself.
  const auto stub = v1::AdminService::NewStub(channel);
  v1::GetStatusResponse response;
  EXPECT_TRUE(stub->GetStatus(NewContext().get(), {}, &response).ok());
}

TEST(Reflection, AnswersInV1) {
  TestServer server;
  CheckReflection<grpc::reflection::v1::ServerReflection, grpc::reflection::v1::ServerReflectionRequest,
                  grpc::reflection::v1::ServerReflectionResponse>(server);
}

TEST(Reflection, AnswersInV1Alpha) {
  TestServer server;
  CheckReflection<grpc::reflection::v1alpha::ServerReflection,
                  grpc::reflection::v1alpha::ServerReflectionRequest,
                  grpc::reflection::v1alpha::ServerReflectionResponse>(server);
}

TEST(Admin, StatusSaysWhatRuns) {
  TestServer server;
  kv::Geometry geometry;
  geometry.n_layers = 2;
  geometry.n_kv_heads = 1;
  geometry.d_head = 8;
  geometry.d = 8;
  geometry.block_tokens = 4;
  server.server->admin().SetStatic({"cpu: fake", geometry, {{"host", "weights", 12}}, 0, 0, 0, 0, {}});
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::GetStatusResponse status;
  ASSERT_TRUE(stub->GetStatus(NewContext().get(), {}, &status).ok());
  EXPECT_EQ(status.state(), v1::SERVER_STATE_SERVING);
  EXPECT_EQ(status.model(), "tiny");
  EXPECT_EQ(status.device(), "cpu: fake");
  EXPECT_EQ(status.blocks().total(), 256);
  EXPECT_EQ(status.blocks().block_bytes(), 2 * 2 * 8 * 4 * 2);
  EXPECT_EQ(status.memory(0).bytes(), 12);

  EXPECT_TRUE(ReadAll(*server.stub, TextRequest("a prompt of some blocks", 10)).status.ok());
  ASSERT_TRUE(server.Eventually([&] { return server.AtRest(); }));
  ASSERT_TRUE(stub->GetStatus(NewContext().get(), {}, &status).ok());
  EXPECT_GT(status.blocks().cached(), 0);
  EXPECT_EQ(status.blocks().free() + status.blocks().cached(), 256);
  EXPECT_GT(status.prefix_queried_tokens(), 0);
  server.state.Enter(ServerPhase::kDraining);
  ASSERT_TRUE(stub->GetStatus(NewContext().get(), {}, &status).ok());
  EXPECT_EQ(status.state(), v1::SERVER_STATE_DRAINING);
}

profiler::MachineProfile AProfile() {
  const profiler::CostCurve curve = *profiler::FitConvex({{1, 1e-6}, {10, 1e-5}});
  profiler::MachineProfile p;
  p.description = "made by hand";
  p.model = {"tiny", 4, 64, 4, 2, 16, 300, 2, 16, 1e5, 1e6};
  p.copy_in = {1e10, 1e-6, curve, curve, {}};
  p.copy_out = p.copy_in;
  p.copy_both_bytes_per_s = 1.8e10;
  p.rebuild = p.linear = p.head = p.attention = curve;
  p.host_memory_bytes_per_s = 1e11;
  return p;
}

TEST(Admin, ProfileIsJsonTextAndNumbersOrSaysThatThereIsNone) {
  TestServer server;
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::GetProfileResponse response;
  const grpc::Status none = stub->GetProfile(NewContext().get(), {}, &response);
  EXPECT_EQ(none.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(none).reason(), "NO_PROFILE");

  server.server->admin().SetProfile(AProfile());
  ASSERT_TRUE(stub->GetProfile(NewContext().get(), {}, &response).ok());
  const auto read = profiler::ProfileFromJson(response.json());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->description, "made by hand");
  EXPECT_THAT(response.text(), HasSubstr("made by hand"));
  EXPECT_EQ(response.numbers().source(), "measured");
  EXPECT_EQ(response.numbers().link_in_bytes_per_s(), 1e10);
  EXPECT_NEAR(response.numbers().rebuild_tokens_per_s(), 1e6, 1);
}

TEST(Admin, TraceIsWhatTheTimelineHeldWhenTheTimeIsOver) {
  TestServer server;
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::RecordTraceRequest request;
  request.set_duration_ms(300);
  v1::RecordTraceResponse response;
  grpc::Status status;
  std::thread asks([&] { status = stub->RecordTrace(NewContext().get(), request, &response); });
  ASSERT_TRUE(server.Eventually([&] { return server.timeline.recording() != 0; }));
  // Somebody else's is refused meanwhile.
  v1::RecordTraceResponse other;
  const grpc::Status refused = stub->RecordTrace(NewContext().get(), request, &other);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailsOf(refused).reason(), "TRACE_RUNNING");
  const MonotonicNs now_ns = Clock::Real().NowNs();
  server.timeline.Add(server.timeline.recording(),
                      {{exec::Lane::kXStore, true, exec::Phase::kPrefill, 5, 3, 4096}, now_ns, now_ns + 70});
  asks.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_GE(response.duration_s(), 0.3);
  ASSERT_EQ(response.spans_size(), 1);
  const v1::TraceSpan& span = response.spans(0);
  EXPECT_EQ(span.lane(), v1::TRACE_LANE_X_STORE);
  EXPECT_TRUE(span.waiting());
  EXPECT_TRUE(span.prefill());
  EXPECT_EQ(span.step(), 5);
  EXPECT_EQ(span.layer(), 3);
  EXPECT_EQ(span.bytes(), 4096);
  EXPECT_EQ(span.duration_ns(), 70);
  EXPECT_GE(span.begin_ns(), 0);
  // And the next one begins empty.
  ASSERT_TRUE(stub->RecordTrace(NewContext().get(), request, &response).ok());
  EXPECT_EQ(response.spans_size(), 0);
}

TEST(Admin, TraceWhoseClientIsGoneMakesRoomForTheNext) {
  TestServer server;
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::RecordTraceRequest request;
  request.set_duration_ms(60'000);
  for (const bool cancels : {true, false}) {
    const auto context = NewContext(cancels ? 60'000 : 300);
    v1::RecordTraceResponse response;
    grpc::Status status;
    std::thread asks([&] { status = stub->RecordTrace(context.get(), request, &response); });
    EXPECT_TRUE(server.Eventually([&] { return server.timeline.recording() != 0; }));
    if (cancels) context->TryCancel();
    asks.join();
    EXPECT_EQ(status.error_code(),
              cancels ? grpc::StatusCode::CANCELLED : grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(server.Eventually([&] { return server.timeline.recording() == 0; })) << cancels;
  }
  request.set_duration_ms(1);
  v1::RecordTraceResponse response;
  const grpc::Status status = stub->RecordTrace(NewContext().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(Admin, TraceOfAWrongDurationIsRefused) {
  TestServer server;
  const auto stub = v1::AdminService::NewStub(server.Connect());
  for (const int64_t duration_ms : {int64_t{-1}, int64_t{60'001}, std::numeric_limits<int64_t>::max()}) {
    v1::RecordTraceRequest request;
    request.set_duration_ms(duration_ms);
    v1::RecordTraceResponse response;
    const grpc::Status status = stub->RecordTrace(NewContext().get(), request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("60000"));
  }
}

TEST(Admin, StoppingEndsTheTraceWithWhatThereIs) {
  TestServer server;
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::RecordTraceRequest request;
  request.set_duration_ms(60'000);
  v1::RecordTraceResponse response;
  grpc::Status status;
  std::thread asks([&] { status = stub->RecordTrace(NewContext(60'000).get(), request, &response); });
  ASSERT_TRUE(server.Eventually([&] { return server.timeline.recording() != 0; }));
  server.server->Shutdown(std::chrono::seconds(10));
  asks.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_LT(response.duration_s(), 30);
}

TEST(Admin, StatusIsThereWhileLoading) {
  TestServerOptions options;
  options.serving = false;
  TestServer server(options);
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::GetStatusResponse status;
  ASSERT_TRUE(stub->GetStatus(NewContext().get(), {}, &status).ok());
  EXPECT_EQ(status.state(), v1::SERVER_STATE_LOADING);
  v1::GetProfileResponse profile;
  EXPECT_EQ(DetailsOf(stub->GetProfile(NewContext().get(), {}, &profile)).reason(), "NOT_READY");
}

TestServerOptions WithProfile() {
  TestServerOptions options;
  options.profile = scheduler::MultiHeadProfile();
  return options;
}

TEST(Admin, ExplainPlanSaysWhatTheProfileAllows) {
  TestServer server(WithProfile());
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::ExplainPlanRequest request;
  request.set_sequences(32);
  request.set_context_tokens(8000);
  request.set_host_pool_bytes(1'000'000'000'000);
  v1::ExplainPlanResponse plan;
  ASSERT_TRUE(stub->ExplainPlan(NewContext().get(), request, &plan).ok());
  EXPECT_EQ(plan.model(), "multi-head");
  EXPECT_EQ(plan.query().context_tokens(), 8000);
  EXPECT_EQ(plan.query().scratch_bytes(), int64_t{1} << 30) << "the default";
  EXPECT_EQ(plan.query().device_memory_bytes(), 24'000'000'000) << "the profile's";
  ASSERT_EQ(plan.alternatives_size(), 8);
  const v1::PlanAlternative& best = plan.alternatives(0);
  EXPECT_NEAR(best.resident_kv_tokens() + best.resident_x_tokens() + best.carried_kv_tokens() +
                  best.carried_x_tokens() + best.host_attended_tokens(),
              32 * 8000, 1);
  ASSERT_EQ(best.resources_size(), exec::kResources);
  int binding = 0;
  for (const v1::ResourceTime& time : best.resources()) {
    binding += time.binds();
    if (time.binds()) {
      EXPECT_NEAR(time.seconds(), best.step_s(), 1e-9) << time.resource();
    }
  }
  EXPECT_EQ(binding, 1);
  for (const v1::PlanAlternative& other : plan.alternatives()) {
    EXPECT_LE(best.step_s(), other.step_s() * (1 + 1e-6)) << other.name();
  }
  // Nothing asked for: one sequence of 4,096 tokens.
  ASSERT_TRUE(stub->ExplainPlan(NewContext().get(), {}, &plan).ok());
  EXPECT_EQ(plan.query().sequences(), 1);
  EXPECT_EQ(plan.query().context_tokens(), 4096);
}

TEST(Admin, NoNumbersOfAClientHurtTheDaemon) {
  TestServer server(WithProfile());
  const auto stub = v1::AdminService::NewStub(server.Connect());
  const int64_t numbers[] = {
      0, 1, -1, 1'000'000'000'000, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
  for (const int64_t a : numbers) {
    for (const int64_t b : numbers) {
      v1::ExplainPlanRequest request;
      request.set_sequences(static_cast<int32_t>(a));
      request.set_context_tokens(b);
      request.set_shared_tokens(a);
      request.set_device_memory_bytes(b);
      request.set_host_pool_bytes(a);
      request.set_scratch_bytes(b);
      v1::ExplainPlanResponse plan;
      const grpc::Status status = stub->ExplainPlan(NewContext().get(), request, &plan);
      const std::string reason = DetailsOf(status).reason();
      EXPECT_TRUE(status.ok() || reason == "INVALID_FIELD" || reason == "MEMORY_TOO_SMALL")
          << a << " " << b << ": " << reason << " " << status.error_message();
    }
  }
  v1::ExplainPlanRequest request;
  request.set_sequences(-4);
  request.set_context_tokens(-1);
  v1::ExplainPlanResponse plan;
  EXPECT_THAT(DetailsOf(stub->ExplainPlan(NewContext().get(), request, &plan)).fields(),
              UnorderedElementsAre("sequences", "context_tokens"));
  EXPECT_TRUE(ReadAll(*server.stub, TextRequest("still serving", 3)).status.ok());
}

TEST(Admin, WithoutAProfileNothingIsExplained) {
  TestServer server;
  const auto stub = v1::AdminService::NewStub(server.Connect());
  v1::ExplainPlanResponse plan;
  const grpc::Status status = stub->ExplainPlan(NewContext().get(), {}, &plan);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).reason(), "NO_PROFILE");
  TestServerOptions options = WithProfile();
  options.serving = false;
  TestServer loading(options);
  const auto other = v1::AdminService::NewStub(loading.Connect());
  EXPECT_EQ(DetailsOf(other->ExplainPlan(NewContext().get(), {}, &plan)).reason(), "NOT_READY");
}

TEST(Admin, ManyQuestionsAtOnceAreAnsweredOrRefused) {
  TestServer server(WithProfile());
  const auto stub = v1::AdminService::NewStub(server.Connect());
  std::atomic<int> answered{0}, busy{0}, other{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j) {
        v1::ExplainPlanResponse plan;
        const grpc::Status status = stub->ExplainPlan(NewContext().get(), {}, &plan);
        if (status.ok()) {
          ++answered;
        } else if (DetailsOf(status).reason() == "PLANNER_BUSY") {
          ++busy;
        } else {
          ++other;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(other, 0);
  EXPECT_EQ(answered + busy, 320);
  EXPECT_GT(answered, 0);
}

TEST(Drain, RunningStreamsFinishAndNewOnesAreRefused) {
  TestServer server;
  server.executor.Close();
  const auto context = NewContext();
  const auto reader = server.stub->StreamComplete(context.get(), TextRequest("x", 30));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  server.state.Enter(ServerPhase::kLameDuck);
  std::thread lame_duck(
      [&] { EXPECT_TRUE(ReadAll(*server.stub, TextRequest("still accepted", 3)).status.ok()); });
  ASSERT_TRUE(server.Eventually([&] {
    const scheduler::SchedulerSnapshot now = server.scheduler->Snapshot();
    return now.running_requests == 1 && now.waiting_requests == 1;  // the second one is in
  }));
  server.state.Enter(ServerPhase::kDraining);
  std::thread drain([&] { server.scheduler->Drain(20'000); });
  const grpc::Status refused = ReadAll(*server.stub, TextRequest("too late", 1)).status;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailsOf(refused).reason(), "DRAINING");
  EXPECT_TRUE(DetailsOf(refused).retry.has_value());
  server.executor.Open();
  int32_t generated = 0;
  while (reader->Read(&event)) {
    if (event.has_usage()) generated = event.usage().generated_tokens();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(generated, 30);
  drain.join();
  lame_duck.join();
}

TEST(Drain, WhatDoesNotFinishInTimeEndsDraining) {
  TestServerOptions options;
  options.scheduler.context_tokens = 60'000;
  options.n_blocks = 40'000;
  TestServer server(options);
  const auto context = NewContext();
  const auto reader = server.stub->StreamComplete(context.get(), TextRequest("x", 50'000));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  server.state.Enter(ServerPhase::kDraining);
  server.scheduler->Drain(0);
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(DetailsOf(reader->Finish()).reason(), "DRAINING");
}

TEST(GrpcServer, APortInUseIsAnErrorThatSaysSo) {
  TestServer first;
  TestServer second;  // for its parts
  const auto started =
      GrpcServer::Start({.listen = first.server->address(), .context_tokens = 256},
                        {second.state, second.text_pool, second.delivery, second.telemetry, Clock::Real()});
  ASSERT_FALSE(started.ok());
  EXPECT_THAT(std::string(started.status().message()), HasSubstr(first.server->address()));
  EXPECT_THAT(std::string(started.status().message()), HasSubstr("address already in use"));
}

TEST(GrpcServer, FrequentPingsAreTolerated) {
  TestServer server;
  server.executor.Close();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  const auto stub = v1::InferenceService::NewStub(server.Connect(arguments));
  const auto context = NewContext();
  const auto reader = stub->StreamComplete(context.get(), TextRequest("a long prefill", 5));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  // Dozens of pings while the daemon has nothing to say; a default server cuts the connection after two.
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  server.executor.Open();
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

}  // namespace
}  // namespace spillway::server
