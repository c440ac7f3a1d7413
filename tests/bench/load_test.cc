// Load runs against a daemon by script: every way a request can end is counted once, and the exit code tells.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "bench/http_get.h"
#include "bench/load_run.h"
#include "bench/serve.h"
#include "bench/workload.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_daemon.h"

namespace spillway::bench {
namespace {

using client::AnswerOf;
using client::DaemonError;
using client::DeltaEvent;
using client::FakeDaemon;
using client::FinishedEvent;
using client::Script;
using client::StartedEvent;
using client::UsageEvent;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Model TestModel() {
  v1::Model model;
  model.set_vocab_size(1000);
  model.set_context_tokens(256);
  model.add_stop_token_ids(2);
  return model;
}

Workload WorkloadOf(const WorkloadOptions& options) {
  absl::StatusOr<Workload> workload = Workload::Create(options, TestModel());
  SPILLWAY_CHECK(workload.ok());
  return *std::move(workload);
}

// --- Workload.

TEST(WorkloadTest, ASeedFixesTheRequests) {
  WorkloadOptions options;
  options.prompt = *LengthDistribution::Parse("uniform:1-64");
  options.cancel_fraction = 0.5;
  options.cache_salt = "s";
  Workload a = WorkloadOf(options);
  Workload b = WorkloadOf(options);
  options.seed = 2;
  Workload c = WorkloadOf(options);
  bool differs = false;
  for (int i = 0; i < 50; ++i) {
    const PlannedRequest planned = a.Next();
    const PlannedRequest same = b.Next();
    EXPECT_EQ(planned.request.SerializeAsString(), same.request.SerializeAsString());
    EXPECT_EQ(planned.cancel_after_ns, same.cancel_after_ns);
    EXPECT_EQ(planned.cancel_after_tokens, same.cancel_after_tokens);
    differs = differs || planned.request.SerializeAsString() != c.Next().request.SerializeAsString();
  }
  EXPECT_TRUE(differs);
}

// Else a second run of a seed would find its prompts in the prefix cache, and measure that.
TEST(WorkloadTest, RunsShareNoPrefixCacheUnlessTheyAreToldTo) {
  WorkloadOptions options;
  const std::string salt = WorkloadOf(options).Next().request.options().cache_salt();
  EXPECT_FALSE(salt.empty());
  EXPECT_NE(WorkloadOf(options).Next().request.options().cache_salt(), salt);
  options.cache_salt = "mine";
  EXPECT_EQ(WorkloadOf(options).Next().request.options().cache_salt(), "mine");
  Workload one = WorkloadOf({});
  EXPECT_EQ(one.Next().request.options().cache_salt(), one.Next().request.options().cache_salt())
      << "within a run prefixes are shared";
}

TEST(WorkloadTest, PromptsAndOutputsFitTheContextAndAvoidEndTokens) {
  WorkloadOptions options;
  options.prompt = *LengthDistribution::Parse("uniform:1-1000");
  options.output = *LengthDistribution::Parse("uniform:1-1000");
  Workload workload = WorkloadOf(options);
  for (int i = 0; i < 200; ++i) {
    const PlannedRequest planned = workload.Next();
    const auto& ids = planned.request.tokens().ids();
    ASSERT_GE(ids.size(), 1);
    ASSERT_GE(planned.request.options().max_tokens(), 1);
    ASSERT_LE(ids.size() + planned.request.options().max_tokens(), 256);
    for (const int32_t id : ids) ASSERT_TRUE(id >= 0 && id < 1000 && id != 2) << id;
  }
}

TEST(WorkloadTest, ASharedPrefixIsSharedAndTheRestIsNot) {
  WorkloadOptions options;
  options.prompt = LengthDistribution::Fixed(32);
  options.shared_prefix_tokens = 24;
  Workload workload = WorkloadOf(options);
  const auto ids_of = [&workload] {
    const PlannedRequest planned = workload.Next();
    return std::vector<int32_t>(planned.request.tokens().ids().begin(), planned.request.tokens().ids().end());
  };
  const std::vector<int32_t> first = ids_of();
  const std::vector<int32_t> second = ids_of();
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 24, second.begin()));
  EXPECT_FALSE(std::equal(first.begin() + 24, first.end(), second.begin() + 24));
}

TEST(WorkloadTest, FractionsAreKept) {
  WorkloadOptions options;
  options.cancel_fraction = 0.1;
  options.slow_reader_fraction = 0.25;
  Workload workload = WorkloadOf(options);
  int cancelled = 0;
  int slow = 0;
  for (int i = 0; i < 4000; ++i) {
    const PlannedRequest planned = workload.Next();
    cancelled += planned.to_be_cancelled() ? 1 : 0;
    slow += planned.reads_slowly ? 1 : 0;
  }
  EXPECT_NEAR(cancelled, 400, 60);
  EXPECT_NEAR(slow, 1000, 90);
  options.cancel_fraction = 1.5;
  EXPECT_FALSE(Workload::Create(options, TestModel()).ok());
}

TEST(WorkloadTest, AFileGivesItsRequestsInTurn) {
  const std::string path = ::testing::TempDir() + std::to_string(getpid()) + "_workload.jsonl";
  std::ofstream(path)
      << "{\"prompt\": \"first\", \"max_tokens\": 3}\n\n{\"prompt_tokens\": 5, \"max_tokens\": 4}\n";
  WorkloadOptions options;
  options.file = path;
  Workload workload = WorkloadOf(options);
  const PlannedRequest first = workload.Next();
  EXPECT_EQ(first.request.text(), "first");
  EXPECT_EQ(first.request.options().max_tokens(), 3);
  EXPECT_EQ(workload.Next().request.tokens().ids_size(), 5);
  EXPECT_EQ(workload.Next().request.text(), "first");
  for (const char* bad : {"nonsense", "{\"prompt\": \"x\"}", "{\"max_tokens\": 3}",
                          "{\"prompt\": \"x\", \"prompt_tokens\": 3, \"max_tokens\": 3}", ""}) {
    std::ofstream(path) << bad << "\n";
    EXPECT_FALSE(Workload::Create(options, TestModel()).ok()) << bad;
  }
}

// --- LoadRun.

class LoadRunTest : public ::testing::Test {
 protected:
  LoadStats Run(const LoadOptions& options, const WorkloadOptions& workload_options = {}) {
    Workload workload = WorkloadOf(workload_options);
    return LoadRun(OpenLoadChannels(daemon_.address(), 2), OpenSlowChannel(daemon_.address()), workload,
                   options)
        .Run(stop_, nullptr);
  }
  static LoadOptions Closed(int64_t concurrency, int64_t requests) {
    LoadOptions options;
    options.concurrency = concurrency;
    options.requests = requests;
    return options;
  }

  FakeDaemon daemon_;
  std::atomic<bool> stop_{false};
};

TEST_F(LoadRunTest, EveryRequestEndsOnce) {
  const LoadStats stats = Run(Closed(8, 100));
  EXPECT_TRUE(stats.ledger.balanced()) << stats.ledger.Describe();
  EXPECT_EQ(stats.ledger.count(Outcome::kOk), 100);
  EXPECT_EQ(stats.totals.generated_tokens, 200);
  EXPECT_EQ(stats.totals.prompt_tokens, 300);
  EXPECT_EQ(stats.first_token.count(), 100);
  EXPECT_EQ(stats.inter_delta.count(), 100);
  EXPECT_EQ(stats.inter_token.count(), 100);
  EXPECT_EQ(stats.per_token.count(), 100);
  EXPECT_EQ(stats.end_to_end.count(), 100);
  EXPECT_EQ(stats.totals.good, 100) << "without objectives all are good";
  EXPECT_EQ(stats.good_share(), 1);
  EXPECT_GT(stats.wall_s, 0);
}

TEST_F(LoadRunTest, TokensThatCameTogetherShareTheirGap) {
  daemon_.Answer({{StartedEvent(3), DeltaEvent("a", {1}), DeltaEvent("bcde", {2, 3, 4, 5}),
                   FinishedEvent(v1::FINISH_REASON_LENGTH), UsageEvent(3, 5)},
                  grpc::Status::OK});
  const LoadStats stats = Run(Closed(1, 10));
  EXPECT_EQ(stats.inter_delta.count(), 10);
  EXPECT_EQ(stats.inter_token.count(), 40);
  EXPECT_NEAR(stats.inter_token.mean_ms() * 4, stats.inter_delta.mean_ms(), 1e-3);
}

TEST(LoadStatsTest, RatesAreOverTheTimeOfSendingWhereThatIsMostOfTheRun) {
  LoadStats stats;
  for (int i = 0; i < 50; ++i) stats.ledger.Sent();
  stats.totals = {40, 20, 400, 4000};
  stats.sending_totals = {30, 15, 300, 3000};
  stats.sending_s = 10;
  stats.wall_s = 16;
  EXPECT_TRUE(stats.Rates().while_sending);
  EXPECT_EQ(stats.Rates().requests_per_s, 3);
  EXPECT_EQ(stats.Rates().good_per_s, 1.5);
  EXPECT_EQ(stats.Rates().prompt_tokens_per_s, 30);
  EXPECT_EQ(stats.Rates().generated_tokens_per_s, 300);
  EXPECT_EQ(stats.attained_per_s(), 5);
  EXPECT_EQ(stats.good_share(), 0.4);
  stats.wall_s = 40;  // all was sent early
  EXPECT_FALSE(stats.Rates().while_sending);
  EXPECT_EQ(stats.Rates().requests_per_s, 1);
  EXPECT_EQ(stats.Rates().generated_tokens_per_s, 100);
}

TEST_F(LoadRunTest, AnOpenLoopSendsAtItsRate) {
  LoadOptions options;
  options.rate_per_s = 400;
  options.duration_ms = 500;
  const LoadStats stats = Run(options);
  EXPECT_TRUE(stats.ledger.balanced());
  // 200 expected, deviation 14.
  EXPECT_GT(stats.ledger.sent(), 120);
  EXPECT_LT(stats.ledger.sent(), 280);
}

TEST_F(LoadRunTest, CancelledRequestsAreCountedAsSuch) {
  daemon_.Answer({{StartedEvent(3)}, grpc::Status::OK, /*endless=*/true});
  WorkloadOptions workload;
  workload.cancel_fraction = 1;
  workload.cancel_within = {20};
  workload.output = LengthDistribution::Fixed(16);
  const LoadStats stats = Run(Closed(4, 20), workload);
  EXPECT_TRUE(stats.ledger.balanced()) << stats.ledger.Describe();
  EXPECT_EQ(stats.ledger.count(Outcome::kCancelled), 20);
  EXPECT_EQ(stats.ledger.causes().size(), 2U) << "some after a time, some after a number of tokens";
}

TEST_F(LoadRunTest, ACancellationThatWeDidNotAskForIsAFailure) {
  daemon_.Answer({{StartedEvent(3)}, grpc::Status(grpc::StatusCode::CANCELLED, "by whom?")});
  const LoadStats stats = Run(Closed(2, 4));
  EXPECT_TRUE(stats.ledger.balanced());
  EXPECT_EQ(stats.ledger.count(Outcome::kFailed), 4);
}

TEST_F(LoadRunTest, RefusalsAreApartFromFailures) {
  daemon_.Answer([](int call) -> Script {
    if (call % 3 == 0) return {{}, DaemonError(Reason::kQueueFull, "full", {}, 100)};
    // Not a refusal: the request had been accepted.
    if (call % 3 == 1) return {{StartedEvent(3)}, DaemonError(Reason::kDraining, "going", {}, 100)};
    return AnswerOf({"a"});
  });
  const LoadStats stats = Run(Closed(1, 9));
  EXPECT_TRUE(stats.ledger.balanced());
  EXPECT_EQ(stats.ledger.count(Outcome::kRejected), 3);
  EXPECT_EQ(stats.ledger.count(Outcome::kFailed), 3);
  EXPECT_EQ(stats.ledger.count(Outcome::kOk), 3);
  EXPECT_EQ(stats.ledger.causes().at("RESOURCE_EXHAUSTED/QUEUE_FULL"), 3);
  EXPECT_EQ(stats.ledger.causes().at("UNAVAILABLE/DRAINING"), 3);
}

TEST_F(LoadRunTest, AClientThatWasRefusedWaitsAsLongAsItWasTold) {
  daemon_.Answer([](int call) -> Script {
    if (call < 2) return {{}, DaemonError(Reason::kQueueFull, "full", {}, 150)};
    return AnswerOf({"a"});
  });
  const LoadStats stats = Run(Closed(1, 3));
  EXPECT_EQ(stats.ledger.count(Outcome::kRejected), 2);
  EXPECT_EQ(stats.ledger.count(Outcome::kOk), 1);
  EXPECT_GE(stats.wall_s, 0.3);
}

TEST_F(LoadRunTest, SlowReadersThatAreDroppedAreTheirOwn) {
  daemon_.Answer({{StartedEvent(3)}, DaemonError(Reason::kSlowReader, "read!", {}, 100)});
  WorkloadOptions slow;
  slow.slow_reader_fraction = 1;
  LoadOptions options = Closed(2, 4);
  options.slow_reader_pause_ms = 5;
  EXPECT_EQ(Run(options, slow).ledger.count(Outcome::kSlowReader), 4);
  EXPECT_EQ(Run(options).ledger.count(Outcome::kFailed), 4) << "we did read";
}

TEST_F(LoadRunTest, UsageThatDisagreesWithTheDeltasDoesNotBalance) {
  Script script = AnswerOf({"a", "b"});
  script.events.back().mutable_usage()->set_generated_tokens(7);
  daemon_.Answer(script);
  const LoadStats stats = Run(Closed(1, 3));
  EXPECT_FALSE(stats.ledger.balanced());
  EXPECT_EQ(stats.ledger.contracts_broken(), 3);
  EXPECT_THAT(stats.ledger.first_broken_contract(), HasSubstr("7 generated tokens"));
}

TEST_F(LoadRunTest, StoppingCancelsWhatIsOpen) {
  daemon_.Answer({{StartedEvent(3)}, grpc::Status::OK, /*endless=*/true});
  std::thread stopper([this] {
    daemon_.WaitForEndless();
    stop_.store(true);
  });
  LoadOptions options = Closed(3, 0);
  options.duration_ms = 3'600'000;
  const LoadStats stats = Run(options);
  stopper.join();
  EXPECT_TRUE(stats.ledger.balanced()) << stats.ledger.Describe();
  EXPECT_EQ(stats.ledger.count(Outcome::kCancelled), stats.ledger.sent());
}

TEST_F(LoadRunTest, ARequestThatTakesTooLongIsGivenUp) {
  daemon_.Answer({{StartedEvent(3)}, grpc::Status::OK, /*endless=*/true});
  LoadOptions options = Closed(1, 1);
  options.timeout_ms = 50;
  const LoadStats stats = Run(options);
  EXPECT_EQ(stats.ledger.count(Outcome::kFailed), 1);
  ASSERT_FALSE(stats.ledger.causes().empty());
  EXPECT_EQ(stats.ledger.causes().begin()->first, "DEADLINE_EXCEEDED");
}

TEST_F(LoadRunTest, AStreamThatNeverEndsIsAFailure) {
  daemon_.Answer([](int call) -> Script {
    if (call == 0) return {{StartedEvent(3)}, grpc::Status::OK, /*endless=*/true};
    return AnswerOf({"a"});
  });
  LoadOptions options = Closed(2, 4);
  options.drain_timeout_ms = 300;
  const LoadStats stats = Run(options);
  EXPECT_EQ(stats.ledger.count(Outcome::kOk), 3);
  EXPECT_EQ(stats.ledger.count(Outcome::kFailed), 1);
}

TEST_F(LoadRunTest, ObjectivesDecideWhatIsGood) {
  LoadOptions options = Closed(1, 5);
  options.slo_ttft_ms = 1e-6;
  EXPECT_EQ(Run(options).totals.good, 0);
  options.slo_ttft_ms = 1e6;
  options.slo_tpot_ms = options.slo_gap_ms = options.slo_e2e_ms = 1e6;
  EXPECT_EQ(Run(options).totals.good, 5);
  options.slo_e2e_ms = 1e-6;
  EXPECT_EQ(Run(options).totals.good, 0);
}

// --- The command.

// Answers every connection with one reply.
class OnePageHttpServer {
 public:
  explicit OnePageHttpServer(std::string reply) : reply_(std::move(reply)) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    SPILLWAY_CHECK(bind(fd_, reinterpret_cast<sockaddr*>(&address), size) == 0 && listen(fd_, 16) == 0);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~OnePageHttpServer() {
    shutdown(fd_, SHUT_RDWR);
    thread_.join();
    close(fd_);
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  void Serve() {
    while (true) {
      const int client = accept(fd_, nullptr, nullptr);
      if (client < 0) return;
      char request[4096];
      (void)!recv(client, request, sizeof(request), 0);
      (void)!send(client, reply_.data(), reply_.size(), MSG_NOSIGNAL);
      shutdown(client, SHUT_WR);
      (void)!recv(client, request, sizeof(request), 0);
      close(client);
    }
  }

  const std::string reply_;
  int fd_ = -1;
  int port_ = 0;
  std::thread thread_;
};

TEST(HttpGetTest, ReturnsTheBodyOfAGoodReplyOnly) {
  const OnePageHttpServer good("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\na 1\nb 2\n");
  EXPECT_EQ(*HttpGet(good.address()), "a 1\nb 2\n");
  EXPECT_EQ(*HttpGet("http://" + good.address() + "/metrics"), "a 1\nb 2\n");
  const OnePageHttpServer bad("HTTP/1.1 503 Service Unavailable\r\n\r\nno\n");
  EXPECT_THAT(std::string(HttpGet(bad.address()).status().message()), HasSubstr("503 Service Unavailable"));
  const OnePageHttpServer empty("");
  EXPECT_FALSE(HttpGet(empty.address()).ok());
  EXPECT_EQ(HttpGet("127.0.0.1:1").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(HttpGet("no-port").status().code(), absl::StatusCode::kInvalidArgument);
}

class ServeTest : public LoadRunTest {
 protected:
  struct Result {
    int exit_code;
    std::string out;
    std::string err;
  };
  Result Serve(std::vector<std::string> args) {
    std::istringstream in;
    std::ostringstream out;
    std::ostringstream err;
    client::Console console{in, out, err};
    args.push_back("--server=" + daemon_.address());
    const int exit_code = RunServe(args, console, stop_);
    return {exit_code, out.str(), err.str()};
  }
};

TEST_F(ServeTest, AReportThatCannotBeWrittenIsRefusedBeforeAnythingIsSent) {
  daemon_.SetRunning(0);
  for (const std::string& path : {std::string("/no/such/folder/report.json"), testing::TempDir()}) {
    const Result result = Serve({"--concurrency=1", "--requests=1", "--json=" + path});
    EXPECT_EQ(result.exit_code, client::kExitUsage);
    EXPECT_THAT(result.err, HasSubstr("--json"));
    EXPECT_EQ(result.out, "");
  }
  EXPECT_TRUE(daemon_.completes().empty());
  const std::string path = absl::StrCat(testing::TempDir(), "/report_", getpid(), ".json");
  for (const char* pass : {"a new file", "the same again"}) {
    EXPECT_EQ(Serve({"--concurrency=1", "--requests=1", "--json=" + path}).exit_code, client::kExitOk)
        << pass;
    std::ifstream file(path);
    EXPECT_EQ(nlohmann::json::parse(file)["schema_version"], 2) << pass;
  }
  unlink(path.c_str());
}

TEST_F(ServeTest, TheStatusIsAskedForWhereOperatorsAre) {
  // Three sequences run for the one, none for the other.
  client::FakeDaemon operators;
  operators.SetRunning(0);
  const std::vector<std::string> load = {"--concurrency=1", "--requests=1", "--settle=100ms"};
  EXPECT_EQ(Serve(load).exit_code, client::kExitFailed);
  std::vector<std::string> there = load;
  there.push_back("--admin=" + operators.address());
  const Result result = Serve(there);
  EXPECT_EQ(result.exit_code, client::kExitOk) << result.out << result.err;
}

TEST_F(ServeTest, ReportsATableAndJson) {
  daemon_.SetRunning(0);
  const OnePageHttpServer metrics(
      "HTTP/1.1 200 OK\r\n\r\nprocess_cpu_seconds_total 3\nprocess_resident_memory_bytes 1048576\n");
  const Result result = Serve({"--concurrency=4", "--requests=20", "--metrics=" + metrics.address(),
                               "--json=-", "--slo_ttft_ms=1000000"});
  EXPECT_EQ(result.exit_code, client::kExitOk) << result.err;
  EXPECT_THAT(result.err, HasSubstr("20 sent = 20 ok"));
  EXPECT_THAT(result.err, HasSubstr("goodput"));
  const nlohmann::json report = nlohmann::json::parse(result.out);
  EXPECT_EQ(report["schema_version"], 2);
  EXPECT_EQ(report["results"]["good_share"], 1);
  EXPECT_EQ(report["results"]["ledger"]["ok"], 20);
  EXPECT_TRUE(report["results"]["ledger"]["balanced"]);
  EXPECT_EQ(report["results"]["first_token"]["count"], 20);
  EXPECT_EQ(report["results"]["good_requests"], 20);
  EXPECT_EQ(report["blocks"]["after"]["in_use"], 0);
  EXPECT_EQ(report["daemon"]["resident_bytes"], 1048576);
  EXPECT_TRUE(report["failures"].empty());
  EXPECT_TRUE(report.contains("machine"));
}

TEST_F(ServeTest, LeftoversBrokenBooksAndFailuresExitOne) {
  daemon_.SetRunning(0);
  EXPECT_EQ(Serve({"--concurrency=1", "--requests=2"}).exit_code, client::kExitOk);
  daemon_.SetRunning(1);
  const Result busy = Serve({"--concurrency=1", "--requests=2", "--settle=0"});
  EXPECT_EQ(busy.exit_code, client::kExitFailed);
  EXPECT_THAT(busy.out, HasSubstr("FAILED: nothing is asked of the daemon, yet"));
  daemon_.SetRunning(0);
  daemon_.Answer({{}, DaemonError(Reason::kInternal, "oh")});
  EXPECT_EQ(Serve({"--concurrency=1", "--requests=2"}).exit_code, client::kExitFailed);
  EXPECT_THAT(Serve({"--concurrency=1", "--requests=2", "--max_failed=2"}).out,
              HasSubstr("FAILED: none of 2"));
  const auto every_other = [](Reason reason) {
    return [reason](int call) -> Script {
      return call % 2 == 0 ? Script{{}, DaemonError(reason, "oh")} : AnswerOf({"a"});
    };
  };
  daemon_.Answer(every_other(Reason::kInternal));
  EXPECT_EQ(Serve({"--concurrency=1", "--requests=2"}).exit_code, client::kExitFailed);
  daemon_.Answer(every_other(Reason::kInternal));
  EXPECT_EQ(Serve({"--concurrency=1", "--requests=2", "--max_failed=1"}).exit_code, client::kExitOk);
  daemon_.Answer(every_other(Reason::kQueueFull));
  EXPECT_THAT(Serve({"--concurrency=1", "--requests=2"}).out,
              HasSubstr("FAILED: 1 of 2 requests were rejected"));
  daemon_.Answer(every_other(Reason::kQueueFull));
  EXPECT_EQ(Serve({"--concurrency=1", "--requests=2", "--max_rejected=0.5"}).exit_code, client::kExitOk);
  Script script = AnswerOf({"a"});
  script.events.pop_back();
  daemon_.Answer(script);
  const Result broken = Serve({"--concurrency=1", "--requests=2"});
  EXPECT_EQ(broken.exit_code, client::kExitFailed);
  EXPECT_THAT(broken.out, HasSubstr("FAILED: the ledger does not balance"));
}

TEST_F(ServeTest, WrongUsageExitsTwo) {
  for (const std::vector<std::string>& args :
       std::vector<std::vector<std::string>>{{},
                                             {"--rate=1"},
                                             {"--requests=3"},
                                             {"--rate=1", "--concurrency=1", "--requests=3"},
                                             {"--concurrency=1", "--requests=3", "--connections=0"},
                                             {"--concurrency=1", "--requests=3", "--prompt_tokens=weird"},
                                             {"--concurrency=1", "--requests=3", "extra"},
                                             {"--concurrency=1", "--requests=3", "--max_resident_slope=1"},
                                             {"--scenario=unknown"}}) {
    EXPECT_EQ(Serve(args).exit_code, client::kExitUsage) << ::testing::PrintToString(args);
  }
}

TEST_F(ServeTest, IdleLatencyReportsBothMoments) {
  const Result result = Serve({"--scenario=idle_latency", "--idle=1ms", "--requests=3", "--json=-"});
  EXPECT_EQ(result.exit_code, client::kExitOk) << result.err;
  const nlohmann::json report = nlohmann::json::parse(result.out);
  EXPECT_EQ(report["after_silence"]["count"], 3);
  EXPECT_EQ(report["at_once"]["count"], 3);
}

TEST_F(ServeTest, HelpListsTheScenarios) {
  const Result result = Serve({"--help"});
  EXPECT_EQ(result.exit_code, client::kExitOk);
  for (const char* wanted : {"soak", "long_prompt", "idle_latency", "--slow_reader_fraction=F"}) {
    EXPECT_THAT(result.out, HasSubstr(wanted));
  }
}

}  // namespace
}  // namespace spillway::bench
