// The real daemon behind an emulated link: steps are planned, counted and explained.
#include <signal.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "spillway/v1/admin.grpc.pb.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/e2e/spawned_daemon.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::e2e {
namespace {

using ::testing::HasSubstr;

std::string PathOf(const std::string& name) { return testing::TempDir() + std::to_string(getpid()) + name; }

// A multi-head model, whose X is half of its keys and values.
std::string WriteModel() {
  fakes::TinyLlamaOptions options;
  options.n_kv_heads = options.n_heads;
  const std::string path = PathOf("_multi_head.gguf");
  EXPECT_TRUE(fakes::WriteTinyLlama(path, options).ok());
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
  const std::string model = WriteModel(), profile = PathOf("_profile.json");
  const std::vector<std::string> link = {"--host_pool=64MiB",
                                         "--max_sequences=4",
                                         "--threads=1",
                                         "--dtype=f32",
                                         "--emulated_link_mb_per_s=100",
                                         "--device_memory=256MiB",
                                         "--residency=off",
                                         "--profile=" + profile};
  std::vector<std::string> flags = link;
  flags.push_back("--model=" + model);
  SpawnedDaemon daemon(flags);
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  EXPECT_THAT(daemon.output(), HasSubstr("profile measured"));
  grpc::ClientContext ask;
  v1::GetProfileResponse measured;
  ASSERT_TRUE(v1::AdminService::NewStub(daemon.Connect())->GetProfile(&ask, {}, &measured).ok());
  EXPECT_EQ(measured.numbers().source(), "measured, emulated link");
  EXPECT_GT(measured.numbers().link_in_bytes_per_s(), 1e6);
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

  // What is still being stored is read on the device: where stores are late, only a later request carries.
  const auto carried_bytes = [&daemon] {
    return Metric(daemon, "spillway_lane_bytes_total{lane=\"x_load\"}") +
           Metric(daemon, "spillway_lane_bytes_total{lane=\"kv_load\"}");
  };
  for (int i = 0; i < 50 && carried_bytes() == 0; ++i) {
    grpc::ClientContext again;
    ASSERT_TRUE(stub->Complete(&again, request, &response).ok());
  }
  EXPECT_GT(carried_bytes(), 0);
  EXPECT_GE(Metric(daemon, "spillway_plans_total{result=\"solved\"}"), 1);
  EXPECT_EQ(Metric(daemon, "spillway_plans_total{result=\"failed\"}"), 0);
  EXPECT_GE(Metric(daemon, "spillway_step_prediction_ratio_count{feedback=\"with\"}"), 20);
  EXPECT_GT(Metric(daemon, "spillway_link_rate_bytes_per_second{direction=\"in\"}"), 0);
  EXPECT_GE(Metric(daemon, "spillway_scheduled_steps_total{reason=\"WEIGHTS_RESIDENT\",schedule=\"row\"}"),
            20);

  grpc::ClientContext question;
  v1::ExplainPlanResponse plan;
  const grpc::Status explained =
      v1::AdminService::NewStub(daemon.Connect())->ExplainPlan(&question, {}, &plan);
  ASSERT_TRUE(explained.ok()) << explained.error_message();
  EXPECT_EQ(plan.model(), "Tiny Llama");
  // Of what this daemon has, whatever was there when the profile was made.
  EXPECT_EQ(plan.query().device_memory_bytes(), 256 << 20);
  EXPECT_NEAR(static_cast<double>(plan.query().host_pool_bytes()), 64 << 20, 2 << 20);
  EXPECT_FALSE(plan.query().stream_weights());
  EXPECT_NEAR(
      plan.weight_bytes() + plan.residency_bytes() + static_cast<double>(plan.query().scratch_bytes()),
      256 << 20, 1);
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait().code, 0) << daemon.output();

  // The tiny model of the other tests has other heads.
  flags = link;
  flags.push_back("--model=" + TinyModelPath());
  const ExitResult refused = RunDaemon(flags);
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.output, HasSubstr("another model (kv heads: 4, here 2"));
  unlink(model.c_str());
  unlink(profile.c_str());
}

// A pool that prompts one after the other fill: blocks lose a form, then their content, and the answers stay
// what they are without a link.
TEST(Planning, AFullPoolDropsFormsAndAnswersTheSame) {
  const std::string model = WriteModel();
  const std::vector<std::string> flags = {"--model=" + model, "--host_pool=2MiB", "--max_sequences=2",
                                          "--context=512",    "--threads=1",      "--dtype=f32"};
  std::vector<std::string> link = flags;
  for (const char* flag :
       {"--emulated_link_mb_per_s=200", "--device_memory=32MiB", "--residency=off", "--check_blocks",
        // Half and half, whatever a busy machine's profile would have.
        "--split=fixed:0.5"}) {
    link.push_back(flag);
  }
  link.push_back("--profile=" + PathOf("_forms_profile.json"));
  SpawnedDaemon plain(flags), linked(link);
  ASSERT_TRUE(plain.WaitUntilReady()) << plain.output();
  ASSERT_TRUE(linked.WaitUntilReady()) << linked.output();
  const auto answer = [](SpawnedDaemon& daemon, int32_t n) {
    grpc::ClientContext call;
    v1::CompleteRequest request;
    for (int32_t i = 0; i < 280; ++i) request.mutable_tokens()->add_ids(10 + (i * (n / 2 + 1) + n) % 200);
    request.mutable_options()->set_max_tokens(12);
    request.mutable_options()->mutable_sampling()->set_temperature(0);
    request.mutable_options()->mutable_stop()->set_ignore_eos(true);
    v1::CompleteResponse response;
    const grpc::Status status =
        v1::InferenceService::NewStub(daemon.Connect())->Complete(&call, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return status.ok() ? response.choices(0).text() : "";
  };
  for (int32_t n = 0; n < 20; ++n) EXPECT_EQ(answer(linked, n), answer(plain, n)) << n;
  EXPECT_GT(Metric(linked, "spillway_kv_forms_dropped_total{form=\"kv\"}") +
                Metric(linked, "spillway_kv_forms_dropped_total{form=\"x\"}"),
            0);
  EXPECT_GT(Metric(linked, "spillway_kv_form_blocks{form=\"x\"}"), 0);
  EXPECT_EQ(Metric(plain, "spillway_kv_form_blocks{form=\"x\"}"), 0);
  linked.Signal(SIGTERM);
  EXPECT_EQ(linked.Wait().code, 0) << linked.output();
}

}  // namespace
}  // namespace spillway::e2e
