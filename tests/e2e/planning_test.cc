// The real daemon behind an emulated link: steps are planned, counted and explained.
#include <signal.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "profiler/machine_profile.h"
#include "spillway/v1/admin.grpc.pb.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/e2e/spawned_daemon.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/scheduler/profiles.h"

namespace spillway::e2e {
namespace {

using ::testing::HasSubstr;

std::string PathOf(const std::string& name) { return testing::TempDir() + std::to_string(getpid()) + name; }

// A multi-head model, whose X is half of its keys and values, and a profile of its shape.
std::string WriteModel() {
  fakes::TinyLlamaOptions options;
  options.n_kv_heads = options.n_heads;
  const std::string path = PathOf("_multi_head.gguf");
  EXPECT_TRUE(fakes::WriteTinyLlama(path, options).ok());
  return path;
}

std::string WriteProfile() {
  profiler::MachineProfile profile = scheduler::MultiHeadProfile();
  profile.model = {"tiny", 2, 64, 4, 4, 16, 320, 4, 128, 1e5, 3e5};
  profile.copy_in.bytes_per_s = profile.copy_out.bytes_per_s = 100e6;
  profile.copy_both_bytes_per_s = 200e6;
  const std::string path = PathOf("_profile.json");
  EXPECT_TRUE(profiler::SaveProfile(profile, path).ok());
  return path;
}

double Metric(const SpawnedDaemon& daemon, const std::string& series) {
  const std::string text = Get(daemon.metrics_address(), "/metrics").body;
  const size_t at = text.find("\n" + series + " ");
  if (at == std::string::npos) {
    ADD_FAILURE() << "no " << series;
    return -1;
  }
  return std::stod(text.substr(at + series.size() + 2));
}

TEST(Planning, StepsOverALinkArePlannedCountedAndExplained) {
  const std::string model = WriteModel(), profile = WriteProfile();
  SpawnedDaemon daemon({"--model=" + model, "--host_pool=64MiB", "--max_sequences=4", "--threads=1",
                        "--dtype=f32", "--emulated_link_mb_per_s=100", "--device_memory=256MiB",
                        "--residency=off", "--profile=" + profile});
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  grpc::ClientContext call;
  v1::CompleteRequest request;
  for (int i = 0; i < 300; ++i) request.mutable_tokens()->add_ids(10 + i % 200);
  request.mutable_options()->set_max_tokens(20);
  request.mutable_options()->mutable_stop()->set_ignore_eos(true);
  v1::CompleteResponse response;
  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  const grpc::Status status = stub->Complete(&call, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.usage().generated_tokens(), 20);

  EXPECT_GE(Metric(daemon, "spillway_plans_total{result=\"solved\"}"), 1);
  EXPECT_EQ(Metric(daemon, "spillway_plans_total{result=\"failed\"}"), 0);
  EXPECT_GE(Metric(daemon, "spillway_step_prediction_ratio_count{feedback=\"with\"}"), 20);
  EXPECT_GT(Metric(daemon, "spillway_lane_bytes_total{lane=\"x_load\"}") +
                Metric(daemon, "spillway_lane_bytes_total{lane=\"kv_load\"}"),
            0);
  EXPECT_GT(Metric(daemon, "spillway_link_rate_bytes_per_second{direction=\"in\"}"), 0);
  EXPECT_GE(Metric(daemon, "spillway_scheduled_steps_total{reason=\"WEIGHTS_RESIDENT\",schedule=\"row\"}"),
            20);

  grpc::ClientContext question;
  v1::ExplainPlanResponse plan;
  const grpc::Status explained =
      v1::AdminService::NewStub(daemon.Connect())->ExplainPlan(&question, {}, &plan);
  ASSERT_TRUE(explained.ok()) << explained.error_message();
  EXPECT_EQ(plan.model(), "tiny");
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait().code, 0) << daemon.output();

  // The tiny model of the other tests has other heads.
  const ExitResult refused =
      RunDaemon({"--model=" + TinyModelPath(), "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                 "--host_pool=64MiB", "--profile=" + profile});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.output,
              HasSubstr("4 KV heads of 16), and this model has 2 layers of 64, 2 KV heads of 16"));
  unlink(model.c_str());
  unlink(profile.c_str());
}

}  // namespace
}  // namespace spillway::e2e
