// What clients, probes and a supervisor see when the device hangs or fails, or what it works on is damaged.
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <thread>
#include <utility>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/e2e/spawned_daemon.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::e2e {
namespace {

using grpc::health::v1::HealthCheckResponse;
using ::testing::AllOf;
using ::testing::HasSubstr;

v1::CompleteRequest Request(int32_t max_tokens) {
  v1::CompleteRequest request;
  request.set_text("the quick brown fox");
  request.mutable_options()->set_max_tokens(max_tokens);
  request.mutable_options()->mutable_stop()->set_ignore_eos(true);
  return request;
}

std::string ReasonOf(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  details.ParseFromString(status.error_details());
  for (const google::protobuf::Any& any : details.details()) {
    if (any.Is<google::rpc::ErrorInfo>()) any.UnpackTo(&info);
  }
  return info.reason();
}

// A daemon with a device that breaks on demand, and a stream that is under way when it does.
class FailureTest : public testing::Test {
 protected:
  FailureTest() {
    EXPECT_TRUE(fakes::WriteFile(fault_file_, "").ok());
    daemon_ = std::make_unique<SpawnedDaemon>(
        std::vector<std::string>{"--model=" + TinyModelPath(), "--host_pool=64MiB",
                                 "--stall_timeout_ms=3000"},
        std::vector<std::string>{"FAULT_FILE=" + fault_file_},
        SpawnOptions{.binary = SPILLWAY_BIN_DIR "/faulty-spillwayd"});
  }
  ~FailureTest() override { std::remove(fault_file_.c_str()); }

  void Break(const std::string& how) {
    // Renamed, so that the device sees all of it or nothing.
    ASSERT_TRUE(fakes::WriteFile(fault_file_ + ".new", how).ok());
    ASSERT_EQ(std::rename((fault_file_ + ".new").c_str(), fault_file_.c_str()), 0);
  }

  // Reads health to the end; true when it said NOT_SERVING after SERVING.
  bool HealthTurns() {
    const auto stub = grpc::health::v1::Health::NewStub(daemon_->Connect());
    const auto context = NewContext();
    const auto reader = stub->Watch(context.get(), {});
    HealthCheckResponse response;
    std::vector<int> seen;
    bool broken = false;
    while (reader->Read(&response)) {
      seen.push_back(response.status());
      if (!std::exchange(broken, true)) Break(how_);
    }
    reader->Finish();
    return seen == std::vector<int>{HealthCheckResponse::SERVING, HealthCheckResponse::NOT_SERVING};
  }

  const std::string fault_file_ = testing::TempDir() + std::to_string(getpid()) + ".fault";
  std::string how_;
  std::unique_ptr<SpawnedDaemon> daemon_;
};

TEST_F(FailureTest, AFailedDeviceEndsEveryStreamAndTheDaemonExitsForItsSupervisor) {
  ASSERT_TRUE(daemon_->WaitUntilReady()) << daemon_->output();
  how_ = "error";
  const auto stub = v1::InferenceService::NewStub(daemon_->Connect());
  std::vector<std::thread> streams;
  std::array<grpc::Status, 3> ends;
  for (grpc::Status& end : ends) {
    streams.emplace_back([&stub, &end] {
      // Streams, one after the other, until one breaks.
      do {
        const auto context = NewContext();
        const auto reader = stub->StreamComplete(context.get(), Request(400));
        v1::StreamEvent event;
        while (reader->Read(&event)) {
        }
        end = reader->Finish();
      } while (end.ok());
    });
  }
  EXPECT_TRUE(HealthTurns());
  for (std::thread& stream : streams) stream.join();
  for (const grpc::Status& end : ends) {
    EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE) << end.error_message();
    EXPECT_EQ(ReasonOf(end), "ENGINE_FAILED");
  }
  const ExitResult result = daemon_->Wait();
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("the device fell off the bus"), HasSubstr("running_sequences"),
                                   HasSubstr("spillwayd: the device failed")));
  EXPECT_NE(access(daemon_->address_file().c_str(), F_OK), 0) << "the address is nobody's any more";
}

TEST_F(FailureTest, ADeviceThatHangsFailsLivezAndThenTheProcess) {
  ASSERT_TRUE(daemon_->WaitUntilReady()) << daemon_->output();
  EXPECT_EQ(Get(daemon_->metrics_address(), "/livez").code, 200);
  how_ = "stall";
  const auto stub = v1::InferenceService::NewStub(daemon_->Connect());
  bool turned = false;
  std::thread watch([&] { turned = HealthTurns(); });
  grpc::Status status;
  std::thread call([&] {
    do {
      v1::CompleteResponse response;
      status = stub->Complete(NewContext().get(), Request(400), &response);
    } while (status.ok());
  });
  int livez = 200;
  while (livez == 200) livez = Get(daemon_->metrics_address(), "/livez").code;
  EXPECT_EQ(livez, 503);
  const ExitResult result = daemon_->Wait();
  call.join();
  watch.join();
  EXPECT_TRUE(turned);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_EQ(result.signal, 0);
  EXPECT_THAT(result.output, AllOf(HasSubstr("--stall_timeout_ms"), HasSubstr("ms_since_visit")));
  EXPECT_NE(access(daemon_->address_file().c_str(), F_OK), 0) << "the address is nobody's any more";
}

TEST_F(FailureTest, ADeviceThatHangsWhileTheDaemonDrainsEndsTheProcessToo) {
  ASSERT_TRUE(daemon_->WaitUntilReady()) << daemon_->output();
  const auto stub = v1::InferenceService::NewStub(daemon_->Connect());
  const auto context = NewContext();
  const auto reader = stub->StreamComplete(context.get(), Request(400));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  Break("stall");
  daemon_->Signal(SIGTERM);
  while (reader->Read(&event)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
  const ExitResult result = daemon_->Wait(std::chrono::seconds(20));  // the drain alone would take 30
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("--stall_timeout_ms"));
}

TEST_F(FailureTest, ADeviceThatHangsAtTheStartIsAnErrorInOneLine) {
  // Broken before it has generated anything.
  Break("stall");
  SpawnedDaemon daemon({"--model=" + TinyModelPath(), "--host_pool=64MiB", "--stall_timeout_ms=1000"},
                       {"FAULT_FILE=" + fault_file_}, {.binary = SPILLWAY_BIN_DIR "/faulty-spillwayd"});
  const ExitResult result = daemon.Wait();
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("spillwayd: "), HasSubstr("--stall_timeout_ms")));
  EXPECT_NE(access(daemon.address_file().c_str(), F_OK), 0) << "the address is nobody's any more";
}

TEST(DamagedModel, WeightsThatAreNoNumbersAreAnErrorInOneLine) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_nan.gguf";
  fakes::TinyLlamaOptions options;
  options.has_tied_embedding = false;
  std::string bytes = fakes::TinyLlamaBytes(options);
  // The output matrix is the file's end: every logit becomes NaN.
  const size_t output_bytes = static_cast<size_t>(options.vocab_size * options.d_model) * sizeof(float);
  for (size_t i = bytes.size() - output_bytes; i < bytes.size(); i += 4)
    bytes.replace(i, 4, "\x00\x00\xC0\x7F", 4);
  ASSERT_TRUE(fakes::WriteFile(path, bytes).ok());
  const ExitResult result = RunDaemon({"--model=" + path, "--host_pool=64MiB", "--threads=1",
                                       "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"});
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_EQ(result.signal, 0) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr(path), HasSubstr("not numbers")));
}

}  // namespace
}  // namespace spillway::e2e
