// The metrics' table against what a scrape shows, and the HTTP server that shows it.
#include "server/metrics.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http_server.h"
#include "server/metric_table.h"
#include "server/network_address.h"
#include "tests/server/harness.h"
#include "tests/server/raw_client.h"

namespace spillway::server {
namespace {

using ::testing::HasSubstr;

struct Scraped {
  std::string type;
  std::string help;
  std::set<std::string> labels;
  std::set<double> buckets;
};

// The text format, as far as the comparison with the table needs it.
std::map<std::string, Scraped> ParseScrape(const std::string& text) {
  std::map<std::string, Scraped> out;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&line, "# HELP ")) {
      const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(' ', 1));
      out[parts[0]].help = parts[1];
    } else if (absl::ConsumePrefix(&line, "# TYPE ")) {
      const std::vector<std::string> parts = absl::StrSplit(line, ' ');
      out[parts[0]].type = parts[1];
    } else {
      const size_t brace = line.find('{');
      std::string name(line.substr(0, std::min(brace, line.find(' '))));
      for (const char* suffix : {"_bucket", "_sum", "_count"}) {
        const std::string base(absl::StripSuffix(name, suffix));
        if (base != name && out.count(base) > 0) name = base;
      }
      Scraped& metric = out[name];
      if (brace == absl::string_view::npos) continue;
      const absl::string_view labels = line.substr(brace + 1, line.rfind('}') - brace - 1);
      for (absl::string_view label : absl::StrSplit(labels, ',')) {
        const std::vector<std::string> parts = absl::StrSplit(label, '=');
        if (parts[0] != "le") {
          metric.labels.insert(parts[0]);
        } else if (parts[1] != "\"+Inf\"") {
          metric.buckets.insert(std::stod(parts[1].substr(1)));
        }
      }
    }
  }
  return out;
}

absl::string_view TypeText(MetricType type) {
  return type == MetricType::kCounter ? "counter" : type == MetricType::kGauge ? "gauge" : "histogram";
}

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() {
    metrics_.SetModelInfo("tiny", "llama", "f32", "cpu", "ab");
    metrics_.SetLimit("sequences", 64);
    metrics_.SetMemory("host", "weights", 12);
    metrics_.SetLinkedMemory("weights", 12, /*page_locked=*/false);
    metrics_.SetSecuritySource([] {
      return SecurityCounts{.tls = {.taken = 2, .refused = 1, .stale = true},
                            .certificate_expiry_unix_s = 1'800'000'000,
                            .client_ca_expiry_unix_s = 1'900'000'000};
    });
    metrics_.OnTenantRejected("acme");
    metrics_.SetSources([] { return scheduler::SchedulerSnapshot(); }, [] { return true; });
  }

  // The value of a line of the scrape that begins with `series`.
  double Value(const std::string& series) {
    for (absl::string_view line : absl::StrSplit(metrics_.Scrape(), '\n')) {
      if (absl::ConsumePrefix(&line, absl::StrCat(series, " "))) return std::stod(std::string(line));
    }
    ADD_FAILURE() << "no " << series;
    return -1;
  }

  Metrics metrics_;
};

TEST_F(MetricsTest, AScrapeShowsTheTableAndNothingElse) {
  const std::map<std::string, Scraped> scraped = ParseScrape(metrics_.Scrape());
  for (const MetricInfo& info : AllMetrics()) {
    const auto found = scraped.find(std::string(info.name));
    ASSERT_NE(found, scraped.end()) << info.name;
    EXPECT_EQ(found->second.type, TypeText(info.type)) << info.name;
    EXPECT_EQ(found->second.help, info.help) << info.name;
    std::set<std::string> labels;
    for (const LabelInfo& label : info.labels) labels.insert(std::string(label.name));
    EXPECT_EQ(found->second.labels, labels) << info.name;
    EXPECT_EQ(found->second.buckets, std::set<double>(info.buckets.begin(), info.buckets.end())) << info.name;
  }
  EXPECT_EQ(scraped.size(), AllMetrics().size());
}

TEST_F(MetricsTest, PromtoolHasNothingToSay) {
  if (std::system("command -v promtool > /dev/null") != 0) GTEST_SKIP() << "promtool is not installed";
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_scrape.txt";
  std::ofstream(path) << metrics_.Scrape();
  FILE* const pipe = popen(("promtool check metrics < " + path + " 2>&1").c_str(), "r");
  std::string output;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, n);
  EXPECT_EQ(pclose(pipe), 0) << output;
  EXPECT_EQ(output, "");
}

TEST_F(MetricsTest, EventsAreCountedWhereTheyBelong) {
  exec::StepStats step;
  step.phase = exec::Phase::kPrefill;
  step.rows = 7;
  step.sampled_rows = 1;
  step.active_ns = 3'000'000;
  metrics_.OnStep(step);
  metrics_.OnFirstToken(0.5);
  metrics_.OnScheduled(0.1);
  metrics_.OnPrefilled(0.4, 100, 30);
  metrics_.OnTokens(2, 0.2);
  metrics_.OnPreempted();
  metrics_.OnRejected(Reason::kQueueFull);
  scheduler::RequestRecord record;
  record.finishes = {scheduler::FinishReason::kStopString, scheduler::FinishReason::kLength};
  record.usage.timings.total_ms = 1500;
  metrics_.OnFinished(record);
  record.reason = Reason::kSlowReader;
  metrics_.OnFinished(record);
  record.reason = Reason::kDeadlineExceeded;
  metrics_.OnFinished(record);
  record.usage.generated_tokens = 3;
  metrics_.OnFinished(record);

  EXPECT_EQ(Value("spillway_step_tokens_total{phase=\"prefill\"}"), 7);
  EXPECT_EQ(Value("spillway_step_seconds_sum{phase=\"prefill\"}"), 0.003);
  EXPECT_EQ(Value("spillway_generated_tokens_total"), 1);
  EXPECT_EQ(Value("spillway_time_to_first_token_seconds_sum"), 0.5);
  EXPECT_EQ(Value("spillway_queue_seconds_count"), 1);
  EXPECT_EQ(Value("spillway_prompt_tokens_total"), 100);
  EXPECT_EQ(Value("spillway_cached_tokens_total"), 30);
  EXPECT_EQ(Value("spillway_inter_token_seconds_count"), 2);
  EXPECT_EQ(Value("spillway_inter_token_seconds_sum"), 0.2);
  EXPECT_EQ(Value("spillway_preemptions_total"), 1);
  EXPECT_EQ(Value("spillway_requests_rejected_total{reason=\"QUEUE_FULL\"}"), 1);
  EXPECT_EQ(Value("spillway_requests_finished_total{code=\"OK\",reason=\"STOP_STRING\"}"), 1);
  EXPECT_EQ(Value("spillway_requests_finished_total{code=\"ABORTED\",reason=\"SLOW_READER\"}"), 1);
  EXPECT_EQ(Value("spillway_request_seconds_count{outcome=\"ok\"}"), 1);
  EXPECT_EQ(Value("spillway_first_tokens_missed_total"), 1) << "and one had a first token";
  EXPECT_EQ(Value("spillway_request_seconds_count{outcome=\"failed\"}"), 3);
  EXPECT_EQ(Value("spillway_request_seconds_count{outcome=\"cancelled\"}"), 0);
  EXPECT_EQ(Value("spillway_ready"), 1);
}

TEST_F(MetricsTest, TheSchedulersStateIsReadAtEveryScrape) {
  scheduler::SchedulerSnapshot now;
  now.running_sequences = 5;
  now.prefilling_sequences = 2;
  now.paused_sequences = 1;
  now.waiting_requests = 4;
  now.running_requests = 3;
  now.returned_sequences = 6;
  now.visits = 10;
  now.blocks.cached_blocks = 5;
  now.blocks.forms = {.kv_blocks = 4, .x_blocks = 2, .both_blocks = 1};
  now.blocks.total_slots = 16;
  now.blocks.in_use_slots = 4;
  now.blocks.dropped_x = 3;
  now.kv_block_bytes = 200;
  now.x_block_bytes = 100;
  metrics_.SetSources([&] { return now; }, [] { return false; });
  EXPECT_EQ(Value("spillway_sequences{state=\"decode\"}"), 2);
  EXPECT_EQ(Value("spillway_sequences{state=\"prefill\"}"), 2);
  EXPECT_EQ(Value("spillway_requests_waiting"), 4);
  EXPECT_EQ(Value("spillway_requests_running"), 3);
  EXPECT_EQ(Value("spillway_sequences_returned"), 6);
  EXPECT_EQ(Value("spillway_kv_blocks{state=\"cached\"}"), 5);
  EXPECT_EQ(Value("spillway_kv_pool_usage_ratio"), 0.25);
  EXPECT_EQ(Value("spillway_kv_form_blocks{form=\"x\"}"), 2);
  EXPECT_EQ(Value("spillway_kv_form_bytes{form=\"kv\"}"), 800);
  EXPECT_EQ(Value("spillway_kv_form_bytes{form=\"x\"}"), 200);
  EXPECT_EQ(Value("spillway_kv_form_bytes{form=\"both\"}"), 300);
  EXPECT_EQ(Value("spillway_kv_forms_dropped_total{form=\"x\"}"), 3);
  EXPECT_EQ(Value("spillway_kv_forms_dropped_total{form=\"kv\"}"), 0);
  EXPECT_EQ(Value("spillway_visits_total"), 10);
  EXPECT_EQ(Value("spillway_ready"), 0);
  now.visits = 25;
  EXPECT_EQ(Value("spillway_visits_total"), 25);
}

TEST_F(MetricsTest, LanesTokensAndPredictionsAreCountedByStep) {
  exec::StepStats step;
  step.active_ns = 2'000'000'000;
  step.lanes[static_cast<size_t>(exec::Lane::kXLoad)] = {500'000'000, 250'000'000, 1000, 3};
  step.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns = 1'500'000'000;
  step.tokens.carried_x_tokens = 40;
  step.tokens.resident_kv_tokens = 2;
  step.promoted_tokens = 48;
  step.chunks_ahead = 4;
  step.chunks_dropped = 1;
  step.ring_waits = 6;
  step.predicted_step_s = 1.8;
  step.corrected_step_s = 2.2;
  metrics_.OnStep(step);
  EXPECT_EQ(Value("spillway_lane_bytes_total{lane=\"x_load\"}"), 1000);
  EXPECT_EQ(Value("spillway_lane_bytes_total{lane=\"kv_store\"}"), 0);
  EXPECT_EQ(Value("spillway_lane_seconds_total{lane=\"x_load\",state=\"busy\"}"), 0.5);
  EXPECT_EQ(Value("spillway_lane_seconds_total{lane=\"x_load\",state=\"stall\"}"), 0.25);
  EXPECT_EQ(Value("spillway_lane_seconds_total{lane=\"compute\",state=\"busy\"}"), 1.5);
  EXPECT_EQ(Value("spillway_step_cached_tokens_total{class=\"carried_x\"}"), 40);
  EXPECT_EQ(Value("spillway_step_cached_tokens_total{class=\"resident_kv\"}"), 2);
  EXPECT_EQ(Value("spillway_promoted_tokens_total"), 48);
  EXPECT_EQ(Value("spillway_chunks_ahead_total{use=\"read\"}"), 4);
  EXPECT_EQ(Value("spillway_chunks_ahead_total{use=\"dropped\"}"), 1);
  EXPECT_EQ(Value("spillway_ring_waits_total"), 6);
  EXPECT_EQ(Value("spillway_step_prediction_ratio_sum{feedback=\"without\"}"), 0.9);
  EXPECT_EQ(Value("spillway_step_prediction_ratio_sum{feedback=\"with\"}"), 1.1);
  step.predicted_step_s = step.corrected_step_s = 0;  // not planned
  metrics_.OnStep(step);
  EXPECT_EQ(Value("spillway_step_prediction_ratio_count{feedback=\"without\"}"), 1);
}

TEST_F(MetricsTest, ThePlannersStateIsReadAtEveryScrape) {
  EXPECT_EQ(Value("spillway_resource_factor_ratio{resource=\"compute\"}"), 1) << "without a planner";
  scheduler::SchedulerSnapshot now;
  scheduler::PlannerSnapshot& planner = now.planner.emplace();
  planner.solves = 3;
  planner.memo_hits = 100;
  planner.failures = 1;
  planner.timeouts = 2;
  planner.solve_s = 0.5;
  planner.factors.link_in = 1.25;
  planner.link_in_bytes_per_s = 2e9;
  planner.link_in_share = 0.8;
  planner.targets.stored_x = 0.75;
  planner.targets.x_share = 0.625;
  planner.schedule.largest_batch = 12;
  planner.scheduled[1][static_cast<size_t>(scheduler::ScheduleReason::kPromptsWait)] = 7;
  metrics_.SetSources([&] { return now; }, [] { return true; });
  EXPECT_EQ(Value("spillway_plans_total{result=\"memo\"}"), 100);
  EXPECT_EQ(Value("spillway_plans_total{result=\"solved\"}"), 3);
  EXPECT_EQ(Value("spillway_plans_total{result=\"failed\"}"), 1);
  EXPECT_EQ(Value("spillway_plans_total{result=\"late\"}"), 2);
  EXPECT_EQ(Value("spillway_plan_solve_seconds_total"), 0.5);
  EXPECT_EQ(Value("spillway_resource_factor_ratio{resource=\"link_in\"}"), 1.25);
  EXPECT_EQ(Value("spillway_link_rate_bytes_per_second{direction=\"in\"}"), 2e9);
  EXPECT_EQ(Value("spillway_link_rate_share_ratio{direction=\"in\"}"), 0.8);
  EXPECT_EQ(Value("spillway_placement_target_ratio{share=\"stored_x\"}"), 0.75);
  EXPECT_EQ(Value("spillway_placement_target_ratio{share=\"as_x\"}"), 0.625);
  EXPECT_EQ(Value("spillway_largest_batch"), 12);
  EXPECT_EQ(Value("spillway_scheduled_steps_total{reason=\"PROMPTS_WAIT\",schedule=\"column\"}"), 7);
}

TEST_F(MetricsTest, NanNeverReachesAHistogram) {
  metrics_.OnFirstToken(std::numeric_limits<double>::quiet_NaN());
  metrics_.OnFirstToken(-1);
  metrics_.OnFirstToken(2);
  EXPECT_EQ(Value("spillway_time_to_first_token_seconds_sum"), 2);
  EXPECT_EQ(Value("spillway_time_to_first_token_seconds_count"), 1);
}

TEST(Telemetry, IsDeafUntilToldToListen) {
  Metrics metrics;
  {
    Telemetry telemetry(metrics);
    telemetry.OnFirstToken(1);
    telemetry.OnRejected(Reason::kQueueFull);
    telemetry.Listen();
    telemetry.OnFirstToken(2);
  }
  EXPECT_THAT(metrics.Scrape(), HasSubstr("spillway_time_to_first_token_seconds_sum 2\n"));
  EXPECT_THAT(metrics.Scrape(), HasSubstr("spillway_requests_rejected_total{reason=\"QUEUE_FULL\"} 0\n"));
}

// --- HTTP

std::string Fetch(const std::string& address, const std::string& request) {
  const HostPort parts = SplitHostPort(address);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(parts.host.c_str(), parts.port.c_str(), &hints, &found) != 0) return "";
  const int fd = socket(found->ai_family, found->ai_socktype, 0);
  std::string out;
  if (connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
      write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char buffer[4096];
    for (ssize_t n = 0; (n = read(fd, buffer, sizeof(buffer))) > 0;)
      out.append(buffer, static_cast<size_t>(n));
  }
  close(fd);
  freeaddrinfo(found);
  return out;
}

std::string Get(const std::string& address, const std::string& path) {
  return Fetch(address, absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n\r\n"));
}

TEST(HttpServer, ServesItsPathsAndNothingElse) {
  const auto server = HttpServer::Start("127.0.0.1:0", {{"/",
                                                         [] {
                                                           return HttpReply{200, "index\n"};
                                                         }},
                                                        {"/bad", [] {
                                                           return HttpReply{503, "no\n"};
                                                         }}});
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string& address = (*server)->address();
  EXPECT_THAT(Get(address, "/"), HasSubstr("200 OK"));
  EXPECT_THAT(Get(address, "/?x=1"), HasSubstr("index\n"));
  EXPECT_THAT(Get(address, "/bad"), HasSubstr("503 Service Unavailable"));
  EXPECT_THAT(Get(address, "/bad/../../etc/passwd"), HasSubstr("404"));
  EXPECT_THAT(Get(address, "/etc/passwd"), HasSubstr("404"));
  EXPECT_THAT(Fetch(address, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), HasSubstr("405"));
  EXPECT_THAT(Fetch(address, "nonsense\r\n\r\n"), Not(HasSubstr("index")));
}

// What a probe is told beside many clients that begin with `head` and go on with `more`, once in a while.
std::string ProbeBeside(const std::string& address, absl::string_view head, absl::string_view more) {
  constexpr int kClients = 90;  // more than the server has threads and waiting places
  std::vector<Listener::Descriptor> clients;
  const auto say = [](const Listener::Descriptor& to, absl::string_view what) {
    (void)send(to.get(), what.data(), what.size(), MSG_NOSIGNAL);  // it may be closed already
  };
  for (int i = 0; i < kClients; ++i) say(clients.emplace_back(ConnectTo(address)), head);
  std::atomic<bool> answered{false};
  std::thread others([&] {
    while (!answered.load()) {
      for (const Listener::Descriptor& client : clients) say(client, more);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  const Listener::Descriptor probe = ConnectTo(address, /*patience_s=*/10);
  say(probe, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
  std::string answer(4096, '\0');
  answer.resize(static_cast<size_t>(std::max<ssize_t>(0, read(probe.get(), answer.data(), answer.size()))));
  answered.store(true);
  others.join();
  return answer;
}

TEST(HttpServer, AnswersProbesBesideBodiesThatNeverEnd) {
  const auto server = HttpServer::Start("127.0.0.1:0", {{"/livez", [] { return HttpReply{200, "ok\n"}; }}});
  ASSERT_TRUE(server.ok()) << server.status();
  for (const auto& [head, more] :
       {std::pair("GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", "a"),
        std::pair("POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n")}) {
    EXPECT_THAT(ProbeBeside((*server)->address(), head, more), HasSubstr("200 OK")) << head;
  }
  EXPECT_THAT(Fetch((*server)->address(), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"),
              HasSubstr("405"));
}

TEST(HttpServer, APortInUseIsAnErrorThatSaysSo) {
  const auto first = HttpServer::Start("127.0.0.1:0", {});
  ASSERT_TRUE(first.ok());
  const auto second = HttpServer::Start((*first)->address(), {});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("address already in use"));
  EXPECT_THAT(std::string(HttpServer::Start("no.such.host.invalid:1", {}).status().message()),
              HasSubstr("no.such.host.invalid"));
}

TEST(HttpServer, StopsQuickly) {
  auto server = HttpServer::Start("127.0.0.1:0", {});
  ASSERT_TRUE(server.ok());
  const auto begin = std::chrono::steady_clock::now();
  server->reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1200));
}

}  // namespace
}  // namespace spillway::server
