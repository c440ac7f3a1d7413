// A model that is larger than the device: its layers come over an emulated link, and its answers are those of
// a device that holds it.
#include <signal.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/e2e/spawned_daemon.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::e2e {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

std::string PathOf(const std::string& name) { return testing::TempDir() + std::to_string(getpid()) + name; }

// Layers of 3 MiB each in f32, 36 MiB together.
std::string WriteModel() {
  fakes::TinyLlamaOptions options;
  options.d_model = 256;
  options.n_heads = 8;
  options.n_kv_heads = 8;
  options.d_ff = 704;
  options.n_layers = 12;
  options.vocab_size = 320;
  const std::string path = PathOf("_larger_than_the_device.gguf");
  EXPECT_TRUE(fakes::WriteTinyLlama(path, options).ok());
  return path;
}

std::vector<std::string> Flags(const std::string& model, std::vector<std::string> more) {
  std::vector<std::string> flags = {"--model=" + model,  "--host_pool=6MiB",         "--context=128",
                                    "--max_sequences=4", "--prefill_rows=64",        "--threads=1",
                                    "--dtype=f32",       "--prefill_chunk_tokens=16"};
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

// Of four calls at once.
std::vector<std::vector<int32_t>> Answers(SpawnedDaemon& daemon) {
  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  std::vector<std::vector<int32_t>> answers(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      v1::CompleteRequest request;
      for (int t = 0; t < 40; ++t) request.mutable_tokens()->add_ids(10 + (i * 31 + t * 7) % 200);
      request.mutable_options()->set_max_tokens(12);
      request.mutable_options()->mutable_sampling()->set_temperature(0);
      request.mutable_options()->mutable_stop()->set_ignore_eos(true);
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(100));
      v1::CompleteResponse response;
      const grpc::Status status = stub->Complete(&context, request, &response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      if (!status.ok()) return;
      answers[static_cast<size_t>(i)].assign(response.choices(0).token_ids().begin(),
                                             response.choices(0).token_ids().end());
    });
  }
  for (std::thread& thread : threads) thread.join();
  return answers;
}

v1::Model ModelOf(SpawnedDaemon& daemon) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::GetModelResponse response;
  const grpc::Status status =
      v1::InferenceService::NewStub(daemon.Connect())->GetModel(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.model();
}

double Metric(const SpawnedDaemon& daemon, const std::string& series) {
  const std::string text = Get(daemon.metrics_address(), "/metrics").body;
  const size_t at = text.find("\n" + series + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
}

TEST(StreamedWeights, AModelLargerThanTheDeviceAnswersAsOneThatFits) {
  const std::string model = WriteModel();
  SpawnedDaemon plain(Flags(model, {}));
  ASSERT_TRUE(plain.WaitUntilReady()) << plain.output();
  const std::vector<std::vector<int32_t>> want = Answers(plain);
  EXPECT_GT(ModelOf(plain).weight_bytes(), 36e6);
  EXPECT_EQ(ModelOf(plain).streamed_weight_bytes(), 0);

  SpawnedDaemon streamed(Flags(model, {"--emulated_link_mb_per_s=1000", "--device_memory=32MiB",
                                       "--batch_sequences=1", "--profile=" + PathOf("_streamed.json")}));
  ASSERT_TRUE(streamed.WaitUntilReady()) << streamed.output();
  EXPECT_THAT(streamed.output(), HasSubstr("weights lie on the host"));
  EXPECT_EQ(Answers(streamed), want);
  EXPECT_GT(ModelOf(streamed).streamed_weight_bytes(), 36e6);
  EXPECT_LT(ModelOf(streamed).streamed_weight_bytes(), ModelOf(streamed).weight_bytes());
  EXPECT_GT(Metric(streamed, "spillway_lane_bytes_total{lane=\"weight_load\"}"), 36e6);
  EXPECT_GT(Metric(streamed, "spillway_memory_bytes{place=\"host\",use=\"weights\"}"), 30e6);
  streamed.Signal(SIGTERM);
  EXPECT_EQ(streamed.Wait().code, 0) << streamed.output();
}

// The number in the refusal works.
TEST(StreamedWeights, ADeviceTooSmallForTwoLayersIsRefusedWithTheTotalThatWorks) {
  const std::string model = WriteModel();
  const ExitResult refused =
      RunDaemon(Flags(model, {"--emulated_link_mb_per_s=1000", "--device_memory=6MiB"}));
  EXPECT_EQ(refused.code, 1) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("--device_memory"));
  ASSERT_THAT(refused.output, ContainsRegex("\\([0-9]+ bytes\\)"));
  const size_t at = refused.output.find(" bytes)");
  const size_t begin = refused.output.rfind('(', at) + 1;
  const std::string bytes = refused.output.substr(begin, at - begin);
  SpawnedDaemon daemon(Flags(model, {"--emulated_link_mb_per_s=1000", "--device_memory=" + bytes,
                                     "--profile=" + PathOf("_least.json")}));
  EXPECT_TRUE(daemon.WaitUntilReady()) << daemon.output();
}

TEST(StreamedWeights, WithoutALinkNothingCanBeStreamed) {
  const ExitResult refused = RunDaemon(Flags(WriteModel(), {"--weights_on=host"}));
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.output, HasSubstr("--weights_on=host"));
}

}  // namespace
}  // namespace spillway::e2e
