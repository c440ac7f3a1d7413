// spillwayd on the CUDA device over the emulated GPU of tests/fakes/cuda: the answers of the CPU.
#include <signal.h>
#include <unistd.h>

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

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

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

// Nothing can be page-locked but what the runtime allocates itself: the pool's copies are staged, the log and
// a metric say so, and plans are made for a link that was measured so.
TEST(CudaDaemon, WithoutPageLockedMemoryItServesTheSameAndSaysSo) {
  const std::string profile = absl::StrCat(testing::TempDir(), getpid(), "_pageable_profile.json");
  const std::vector<std::string> flags =
      Flags({"--device=cuda", absl::StrCat("--cuda_module=", SPILLWAY_EMULATED_MODULE),
             "--device_memory=64MiB", "--residency=off", "--profile=" + profile});
  const std::string locked_bytes =
      "spillway_linked_memory_bytes{state=\"page_locked\",use=\"kv_pool\"} 1";  // ten MiB and more
  std::string answer;
  {
    SpawnedDaemon locked(flags);
    ASSERT_TRUE(locked.WaitUntilReady()) << locked.output();
    answer = Answer(locked, "once upon a time");
    EXPECT_THAT(Get(locked.metrics_address(), "/metrics").body, HasSubstr(locked_bytes));
    EXPECT_THAT(locked.output(), Not(HasSubstr("not page-locked")));
    locked.Signal(SIGTERM);
    EXPECT_EQ(locked.Wait().code, 0) << locked.output();
  }
  SpawnedDaemon pageable(flags, {"FAKE_CUDA_MACHINE=registrable_bytes=0"});
  ASSERT_TRUE(pageable.WaitUntilReady()) << pageable.output();
  EXPECT_EQ(Answer(pageable, "once upon a time"), answer);
  EXPECT_THAT(pageable.output(), AllOf(HasSubstr("profile read"), HasSubstr("KV pool is not page-locked"),
                                       HasSubstr("ulimit -l"), HasSubstr("ring of 64.0 MiB"),
                                       HasSubstr("the link measured again")));
  const std::string metrics = Get(pageable.metrics_address(), "/metrics").body;
  EXPECT_THAT(metrics, HasSubstr("spillway_linked_memory_bytes{state=\"pageable\",use=\"kv_pool\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("spillway_linked_memory_bytes{state=\"page_locked\",use=\"kv_pool\"} 0"));
  v1::GetProfileResponse planned;
  grpc::ClientContext context;
  ASSERT_TRUE(v1::AdminService::NewStub(pageable.Connect())->GetProfile(&context, {}, &planned).ok());
  EXPECT_THAT(planned.text(), HasSubstr("host memory is not page-locked"));
  pageable.Signal(SIGTERM);
  EXPECT_EQ(pageable.Wait().code, 0) << pageable.output();
  unlink(profile.c_str());
}

TEST(CudaDaemon, AModuleThatIsNotThereIsNamed) {
  const ExitResult result = RunDaemon(Flags({"--device=cuda", "--cuda_module=/no/such/module.so"}));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, HasSubstr("--device=cuda: "));
  EXPECT_THAT(result.output, HasSubstr("no CUDA module"));
}

}  // namespace
}  // namespace spillway::e2e
