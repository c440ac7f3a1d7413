// spillwayd with its cache behind an emulated link: the same answers as without one.
#include <signal.h>

#include <chrono>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/client_context.h"
#include "gtest/gtest.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/e2e/spawned_daemon.h"

namespace spillway::e2e {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> Flags(std::vector<std::string> more = {}) {
  std::vector<std::string> flags = {"--model=" + TinyModelPath(), "--host_pool=16MiB", "--max_sequences=4",
                                    "--prefill_rows=128",         "--threads=1",       "--dtype=f32"};
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

// Greedy continuations of prompts long enough to fill several blocks, the last two with a common beginning.
std::vector<std::string> Answers(SpawnedDaemon& daemon) {
  const auto stub = v1::InferenceService::NewStub(daemon.Connect());
  std::vector<std::string> answers;
  std::string fox;
  for (int i = 0; i < 12; ++i) fox += "the quick brown fox jumps over the lazy dog ";
  for (const std::string& prompt : {std::string("once upon a time"), fox, fox + "and then"}) {
    v1::CompleteRequest request;
    request.set_text(prompt);
    request.mutable_options()->set_max_tokens(40);
    request.mutable_options()->mutable_sampling()->set_temperature(0);
    request.mutable_options()->mutable_stop()->set_ignore_eos(true);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    v1::CompleteResponse response;
    const grpc::Status status = stub->Complete(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    answers.push_back(status.ok() ? response.choices(0).text() : "");
  }
  return answers;
}

TEST(LinkDaemon, AnswersAsWithoutALink) {
  SpawnedDaemon plain(Flags());
  ASSERT_TRUE(plain.WaitUntilReady()) << plain.output();
  SpawnedDaemon linked(Flags({"--emulated_link_mb_per_s=500", "--device_memory=10MiB"}));
  ASSERT_TRUE(linked.WaitUntilReady()) << linked.output();
  EXPECT_EQ(Answers(linked), Answers(plain));
  EXPECT_THAT(linked.output(), HasSubstr("emulated"));
  linked.Signal(SIGTERM);
  EXPECT_EQ(linked.Wait().code, 0) << linked.output();
}

TEST(LinkDaemon, ALinkWithoutDeviceMemoryIsRefused) {
  const ExitResult result = RunDaemon(Flags({"--emulated_link_mb_per_s=100"}));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, HasSubstr("--device_memory"));
}

TEST(LinkDaemon, TooLittleDeviceMemoryIsRefusedWithTheSizeThatWorks) {
  const ExitResult result = RunDaemon(Flags({"--emulated_link_mb_per_s=100", "--device_memory=4MiB"}));
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("device"));
  EXPECT_THAT(result.output, ::testing::ContainsRegex("[0-9.]+ [KMG]iB"));
}

}  // namespace
}  // namespace spillway::e2e
