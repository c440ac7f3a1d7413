// spillwayd on the CUDA device over the emulated GPU of tests/fakes/cuda: the answers of the CPU.
#include <signal.h>

#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "spillway/v1/admin.grpc.pb.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/e2e/spawned_daemon.h"

namespace spillway::e2e {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> Flags(std::vector<std::string> more = {}) {
  std::vector<std::string> flags = {"--model=" + TinyModelPath(), "--host_pool=16MiB", "--max_sequences=2",
                                    "--prefill_rows=64",          "--threads=1",       "--dtype=f32"};
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

std::string Answer(SpawnedDaemon& daemon, const std::string& prompt) {
  v1::CompleteRequest request;
  request.set_text(prompt);
  request.mutable_options()->set_max_tokens(12);
  request.mutable_options()->mutable_sampling()->set_temperature(0.7F);
  request.mutable_options()->mutable_sampling()->set_top_k(20);
  request.mutable_options()->mutable_sampling()->set_seed(5);
  request.mutable_options()->mutable_stop()->set_ignore_eos(true);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::CompleteResponse response;
  const grpc::Status status =
      v1::InferenceService::NewStub(daemon.Connect())->Complete(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return status.ok() ? response.choices(0).text() : "";
}

TEST(CudaDaemon, DrawsWhatTheCpuDraws) {
  SpawnedDaemon cpu(Flags({"--device=cpu"}));
  ASSERT_TRUE(cpu.WaitUntilReady()) << cpu.output();
  const std::string module = absl::StrCat("--cuda_module=", SPILLWAY_EMULATED_MODULE);
  SpawnedDaemon cuda(Flags({"--device=cuda", module, "--device_memory=64MiB"}));
  ASSERT_TRUE(cuda.WaitUntilReady()) << cuda.output();
  for (const char* prompt : {"once upon a time", "the quick brown fox jumps over the lazy dog and then"}) {
    EXPECT_EQ(Answer(cuda, prompt), Answer(cpu, prompt));
  }
  v1::GetStatusResponse status;
  grpc::ClientContext context;
  ASSERT_TRUE(v1::AdminService::NewStub(cuda.Connect())->GetStatus(&context, {}, &status).ok());
  EXPECT_THAT(status.device(), HasSubstr("cuda: Emulated GPU"));
  cuda.Signal(SIGTERM);
  EXPECT_EQ(cuda.Wait().code, 0) << cuda.output();
}

TEST(CudaDaemon, AModuleThatIsNotThereIsNamed) {
  const ExitResult result = RunDaemon(Flags({"--device=cuda", "--cuda_module=/no/such/module.so"}));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, HasSubstr("--device=cuda: "));
  EXPECT_THAT(result.output, HasSubstr("no CUDA module"));
}

}  // namespace
}  // namespace spillway::e2e
