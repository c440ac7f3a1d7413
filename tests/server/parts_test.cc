// The small parts between the scheduler and the network.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <future>
#include <iterator>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/address_file.h"
#include "server/delivery.h"
#include "server/event_writer.h"
#include "server/network_address.h"
#include "server/process_setup.h"
#include "server/process_stats.h"
#include "server/request_log.h"
#include "server/text_pool.h"
#include "tests/server/harness.h"

namespace spillway::server {
namespace {

TEST(TextPool, RunsWhatItTakes) {
  std::atomic<int> ran{0};
  {
    TextPool pool({.threads = 3});
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(pool.Submit(10, [&ran] { ++ran; }).ok());
  }
  EXPECT_EQ(ran, 100);
}

TEST(TextPool, RefusesWhatIsBeyondItsBounds) {
  TextPool pool({.threads = 1, .max_jobs = 2, .max_bytes = 100});
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  EXPECT_TRUE(pool.Submit(1000, [released] { released.wait(); }).ok()) << "one job of any size is taken";
  EXPECT_EQ(ReasonOf(pool.Submit(1, [] {})), Reason::kTokenizerBusy) << "by bytes";
  release.set_value();
}

TEST(TextPool, CountsRunningJobsToo) {
  TextPool pool({.threads = 1, .max_jobs = 2, .max_bytes = 100});
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  EXPECT_TRUE(pool.Submit(1, [released] { released.wait(); }).ok());
  EXPECT_TRUE(pool.Submit(1, [] {}).ok());
  const absl::Status refused = pool.Submit(1, [] {});
  EXPECT_EQ(ReasonOf(refused), Reason::kTokenizerBusy);
  EXPECT_EQ(MetadataOf(refused), (ReasonMetadata{{"limit", "2"}, {"value", "2"}}));
  release.set_value();
}

class CountingCall : public Deliverable {
 public:
  explicit CountingCall(std::atomic<int>& pumps) : pumps_(pumps) {}
  void Pump() override { ++pumps_; }

 private:
  std::atomic<int>& pumps_;
};

TEST(Delivery, PumpsEveryCallThatIsReady) {
  std::atomic<int> pumps{0};
  {
    Delivery delivery;
    for (int i = 0; i < 1000; ++i) delivery.Notify(std::make_shared<CountingCall>(pumps));
  }
  EXPECT_EQ(pumps, 1000);
}

TEST(RequestLog, WritesEveryRecord) {
  std::vector<std::string> labels;
  {
    RequestLog log([&](const scheduler::RequestRecord& record) { labels.push_back(record.label); }, 10);
    scheduler::RequestRecord record;
    record.label = "a";
    log.Add(record);
  }
  EXPECT_THAT(labels, testing::ElementsAre("a"));
}

// A flood of refusals is not a flood of lines, and not of memory.
TEST(RequestLog, RefusalsAreSaidAFewASecondAndTheRestCounted) {
  testing::internal::CaptureStderr();
  {
    RequestLog log;
    for (int i = 0; i < 1000; ++i) {
      log.Add(Refusal{Reason::kQueueFull, std::string(100'000, 'x'), "id", "Complete", "ipv4:1.2.3.4:5"});
    }
  }
  const std::string text = testing::internal::GetCapturedStderr();
  const auto count = [&text](const std::string& what) {
    int n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
  };
  // A slow machine may need a few seconds for them.
  EXPECT_GE(count("request refused"), RequestLog::kRefusalsPerSecond);
  EXPECT_LT(count("request refused"), 200);
  EXPECT_EQ(count("reason=QUEUE_FULL"), count("request refused"));
  EXPECT_EQ(count("peer=ipv4:1.2.3.4:5"), count("request refused"));
  EXPECT_LT(text.size(), 300'000U);
}

TEST(RequestLog, AFullQueueDropsInsteadOfWaiting) {
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  std::promise<void> begun;
  std::atomic<int> written{0};
  {
    RequestLog log(
        [&](const scheduler::RequestRecord&) {
          if (written++ == 0) begun.set_value();
          released.wait();
        },
        2);
    log.Add(scheduler::RequestRecord{});
    begun.get_future().wait();  // the writer hangs, as on a full pipe
    for (int i = 0; i < 10; ++i) log.Add(scheduler::RequestRecord{});
    release.set_value();
  }
  EXPECT_EQ(written, 3);
}

TEST(EventWriter, LogprobsCarryTheTokensBytes) {
  const ServedModel model = TinyModel();
  const EventWriter writer(*model.tokenizer, "tiny", "label", 7);
  scheduler::DeltaEvent delta;
  delta.index = 1;
  delta.text = "x";
  delta.tokens = {40, 41};
  delta.logprobs = {{40, -0.5F, 1, {{40, -0.5F}, {41, -1.0F}}}, {41, -2.0F, 3, {}}};
  scheduler::Event event = delta;
  v1::StreamEvent out;
  writer.Write(event, &out);
  ASSERT_EQ(out.delta().logprobs_size(), 2);
  EXPECT_EQ(out.delta().logprobs(0).bytes(), model.tokenizer->TokenBytes(40));
  EXPECT_EQ(out.delta().logprobs(0).top(1).bytes(), model.tokenizer->TokenBytes(41));
  EXPECT_EQ(out.delta().logprobs(1).rank(), 3);
}

TEST(EventWriter, AMessageIsReusedWithoutTraces) {
  const ServedModel model = TinyModel();
  const EventWriter writer(*model.tokenizer, "tiny", "label", 7);
  v1::StreamEvent out;
  const auto write = [&](scheduler::Event event) {
    writer.Write(event, &out);
    v1::StreamEvent fresh;
    writer.Write(event, &fresh);
    return out.event_case() == fresh.event_case();
  };
  scheduler::DeltaEvent delta;
  delta.tokens = {40, 41};
  delta.logprobs = {{40, -0.5F, 1, {}}};
  EXPECT_TRUE(write(scheduler::StartedEvent{5}));
  EXPECT_EQ(out.started().seed(), 7u);
  EXPECT_EQ(out.started().prompt_tokens(), 5);
  EXPECT_TRUE(write(delta));
  delta.tokens = {42};
  delta.logprobs.clear();
  EXPECT_TRUE(write(delta));
  EXPECT_EQ(out.delta().token_ids_size(), 1);
  EXPECT_EQ(out.delta().logprobs_size(), 0);
  EXPECT_TRUE(write(scheduler::FinishedEvent{0, scheduler::FinishReason::kStopString, "ab", -1}));
  EXPECT_EQ(out.finished().stop_string(), "ab");
  EXPECT_FALSE(out.finished().has_stop_token_id());
}

TEST(ProcessStats, SayWhatIsTrueOfThisProcess) {
  const ProcessStats stats = ReadProcessStats();
  EXPECT_GT(stats.resident_bytes, 1 << 20);
  EXPECT_GE(stats.virtual_bytes, stats.resident_bytes);
  EXPECT_GE(stats.cpu_seconds, 0);
  EXPECT_GE(stats.open_fds, 3);
  EXPECT_GT(stats.max_fds, stats.open_fds);
  EXPECT_GT(stats.start_unix_seconds, 1.6e9);
}

TEST(NetworkAddress, SplitsAndReplacesPorts) {
  EXPECT_EQ(SplitHostPort("[::1]:80").host, "::1");
  EXPECT_EQ(SplitHostPort("localhost:0").port, "0");
  EXPECT_EQ(WithPort("[::1]:0", 77), "[::1]:77");
}

TEST(ProcessSetup, AFileCutShortWhileItIsReadEndsTheProcessWithALine) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_shrinking";
  const auto read_what_is_gone = [&path] {
    ExplainBusErrors();
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    constexpr size_t kBytes = 1 << 16;
    if (fd < 0 || ftruncate(fd, kBytes) != 0) _exit(2);
    const void* const mapped = mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED || ftruncate(fd, 0) != 0) _exit(3);
    _exit(*static_cast<const volatile char*>(mapped) + 4);
  };
  EXPECT_EXIT(read_what_is_gone(), testing::ExitedWithCode(1), "cut short");
  unlink(path.c_str());
}

// --- AddressFile

std::string TempPath(const std::string& name) { return testing::TempDir() + std::to_string(getpid()) + name; }

std::string ReadBack(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(AddressFile, IsThereFromWriteToTheEnd) {
  const std::string path = TempPath("_address");
  {
    AddressFile file(path);
    EXPECT_TRUE(file.Check().ok());
    ASSERT_TRUE(file.Write("127.0.0.1:1", "127.0.0.1:5", "127.0.0.1:2").ok());
    EXPECT_THAT(ReadBack(path), testing::HasSubstr("\"grpc\":\"127.0.0.1:1\""));
    EXPECT_THAT(ReadBack(path), testing::HasSubstr("\"admin\":\"127.0.0.1:5\""));
    EXPECT_TRUE(AddressFile(path).Check().ok()) << "what an earlier run left may be replaced";
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST(AddressFile, WhatIsTheUsersIsNeitherOverwrittenNorRemoved) {
  const std::string path = TempPath("_precious");
  for (const std::string text : {"precious", "{\"grpc\": 1}", "[]"}) {
    std::ofstream(path) << text;
    {
      const AddressFile file(path);
      EXPECT_THAT(std::string(file.Check().message()), testing::HasSubstr(path)) << text;
    }
    EXPECT_EQ(ReadBack(path), text);
  }
  std::ofstream(path) << "";
  EXPECT_TRUE(AddressFile(path).Check().ok()) << "as mktemp makes it";
  EXPECT_FALSE(AddressFile(testing::TempDir()).Check().ok()) << "a directory";
  std::remove(path.c_str());
}

TEST(AddressFile, WhatAnotherDaemonWroteIsNotRemoved) {
  const std::string path = TempPath("_shared");
  AddressFile other(path);
  {
    AddressFile file(path);
    ASSERT_TRUE(file.Write("127.0.0.1:1", "127.0.0.1:5", "127.0.0.1:2").ok());
    ASSERT_TRUE(other.Write("127.0.0.1:3", "127.0.0.1:3", "127.0.0.1:4").ok());
  }
  EXPECT_THAT(ReadBack(path), testing::HasSubstr("127.0.0.1:3"));
}

TEST(AddressFile, LinksThatOthersPutBesideItAreNotFollowed) {
  const std::string path = TempPath("_linked"), precious = TempPath("_precious");
  const std::string guessed = path + "." + std::to_string(getpid());
  std::ofstream(precious) << "precious";
  ASSERT_EQ(symlink(precious.c_str(), guessed.c_str()), 0);
  {
    AddressFile file(path);
    ASSERT_TRUE(file.Write("127.0.0.1:1", "127.0.0.1:5", "127.0.0.1:2").ok());
    EXPECT_EQ(ReadBack(precious), "precious");
  }
  for (const std::string& file : {guessed, precious}) std::remove(file.c_str());
}

TEST(AddressFile, WithoutAPathThereIsNone) {
  AddressFile file("");
  EXPECT_TRUE(file.Check().ok());
  EXPECT_TRUE(file.Write("a", "a", "b").ok());
}

}  // namespace
}  // namespace spillway::server
