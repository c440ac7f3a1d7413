#include "bench/load_run.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/clock.h"
#include "bench/load_stream.h"

namespace spillway::bench {
namespace {

constexpr MonotonicNs kNever = INT64_MAX;
// How long a wait may be before `stop` is looked at again.
constexpr int64_t kLongestWaitNs = 100 * kNsPerMs;

double ProcessCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

// The state of one Run.
class LoadRun::Loop {
 public:
  Loop(const LoadRun& run, const std::atomic<bool>& stop)
      : run_(run), options_(run.options_), stop_(stop), clock_(Clock::Real()), arrivals_(run.options_.seed) {
    for (const auto& channel : run.channels_) stubs_.push_back(v1::InferenceService::NewStub(channel));
    slow_stub_ = v1::InferenceService::NewStub(run.slow_channel_);
  }

  LoadStats Run(const std::function<void(absl::string_view)>& on_second) {
    const double cpu_before = ProcessCpuSeconds();
    stats_.offered_per_s = options_.rate_per_s;
    begin_ns_ = clock_.NowNs();
    next_due_ns_ = begin_ns_;
    MonotonicNs next_report_ns = begin_ns_ + kNsPerSecond;
    MonotonicNs now_ns = begin_ns_;
    while (sending_ || !streams_.empty()) {
      if (stop_.load(std::memory_order_relaxed)) CancelAll("at the end of the run");
      SendWhatIsDue(now_ns);
      FireTimers(now_ns);
      if (!sending_ && last_send_ns_ > 0 && now_ns > last_send_ns_ + options_.drain_timeout_ms * kNsPerMs) {
        CancelAll(kNeverEnded);
      }
      WaitForCompletions(std::min(NextWakeNs(), now_ns + kLongestWaitNs));
      now_ns = clock_.NowNs();
      if (on_second != nullptr && now_ns >= next_report_ns) {
        on_second(Describe(now_ns));
        next_report_ns = now_ns + kNsPerSecond;
      }
    }
    stats_.wall_s = ToSeconds(std::max<int64_t>(last_end_ns_ - begin_ns_, 1));
    stats_.client_cpu_s = ProcessCpuSeconds() - cpu_before;
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
    }
    return std::move(stats_);
  }

 private:
  bool open_loop() const { return options_.rate_per_s > 0; }

  bool EnoughSent(MonotonicNs now_ns) const {
    if (stop_.load(std::memory_order_relaxed)) return true;
    if (options_.requests > 0 && stats_.ledger.sent() >= options_.requests) return true;
    return options_.duration_ms > 0 && now_ns >= begin_ns_ + options_.duration_ms * kNsPerMs;
  }

  bool MaySend() const {
    const auto in_flight = static_cast<int64_t>(streams_.size());
    return open_loop() ? in_flight < options_.max_in_flight : in_flight + resting_ < options_.concurrency;
  }

  void SendWhatIsDue(MonotonicNs now_ns) {
    while (sending_) {
      if (EnoughSent(now_ns)) {
        sending_ = false;
        stats_.sending_totals = stats_.totals;
        stats_.sending_s = ToSeconds(std::max<int64_t>(now_ns - begin_ns_, 1));
        return;
      }
      if (!MaySend() || (open_loop() && next_due_ns_ > now_ns)) return;
      Send(open_loop() ? next_due_ns_ : clock_.NowNs());
      if (open_loop()) {
        next_due_ns_ += static_cast<int64_t>(arrivals_.Exponential(1e9 / options_.rate_per_s));
      }
    }
  }

  void Send(MonotonicNs due_ns) {
    PlannedRequest planned = run_.workload_.Next();
    const int64_t request = stats_.ledger.Sent();
    auto stream = std::make_unique<LoadStream>(request, std::move(planned), due_ns);
    const MonotonicNs now_ns = clock_.NowNs();
    stats_.send_lag.Add(now_ns - due_ns);
    v1::InferenceService::Stub& stub =
        stream->planned().reads_slowly ? *slow_stub_ : *stubs_[static_cast<size_t>(request) % stubs_.size()];
    stream->Start(stub, queue_, options_.timeout_ms);
    if (stream->planned().cancel_after_ns >= 0) {
      timers_.emplace(now_ns + stream->planned().cancel_after_ns, Timer{request, Timer::Act::kCancel});
    }
    last_send_ns_ = now_ns;
    streams_.emplace(request, std::move(stream));
  }

  void FireTimers(MonotonicNs now_ns) {
    while (!timers_.empty() && timers_.begin()->first <= now_ns) {
      const Timer timer = timers_.begin()->second;
      timers_.erase(timers_.begin());
      if (timer.act == Timer::Act::kEndRest) {
        --resting_;
        continue;
      }
      const auto found = streams_.find(timer.request);
      if (found == streams_.end()) continue;
      if (timer.act == Timer::Act::kCancel) {
        found->second->Cancel("after a time");
      } else {
        found->second->Read();
      }
    }
  }

  void CancelAll(const std::string& cause) {
    for (auto& [request, stream] : streams_) stream->Cancel(cause);
  }

  MonotonicNs NextWakeNs() const {
    MonotonicNs wake_ns = timers_.empty() ? kNever : timers_.begin()->first;
    if (sending_ && open_loop() && MaySend()) wake_ns = std::min(wake_ns, next_due_ns_);
    return wake_ns;
  }

  // Waits for the first completion or `until_ns`, then takes what else is there.
  void WaitForCompletions(MonotonicNs until_ns) {
    // A bound, so that timers and arrivals are never starved by a fast daemon.
    for (int taken = 0; taken < 256; ++taken) {
      const int64_t wait_ns = taken == 0 ? std::max<int64_t>(until_ns - clock_.NowNs(), 0) : 0;
      void* tag = nullptr;
      bool ok = false;
      const auto deadline = std::chrono::system_clock::now() + std::chrono::nanoseconds(wait_ns);
      if (queue_.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) return;
      OnCompletion(*static_cast<LoadStream*>(tag), ok);
    }
  }

  void OnCompletion(LoadStream& stream, bool ok) {
    const MonotonicNs now_ns = clock_.NowNs();
    switch (stream.OnCompletion(ok, now_ns, options_, &stats_)) {
      case LoadStream::Next::kWait:
        break;
      case LoadStream::Next::kPause:
        timers_.emplace(now_ns + options_.slow_reader_pause_ms * kNsPerMs,
                        Timer{stream.request(), Timer::Act::kRead});
        break;
      case LoadStream::Next::kEnded:
        last_end_ns_ = now_ns;
        if (!open_loop() && stream.retry_after_ms() > 0) {
          ++resting_;
          timers_.emplace(now_ns + stream.retry_after_ms() * kNsPerMs,
                          Timer{stream.request(), Timer::Act::kEndRest});
        }
        streams_.erase(stream.request());
        break;
    }
  }

  std::string Describe(MonotonicNs now_ns) {
    const double rate = static_cast<double>(stats_.totals.generated_tokens - reported_tokens_) /
                        ToSeconds(std::max<int64_t>(now_ns - reported_ns_, 1));
    const bool first = reported_ns_ == 0;
    reported_ns_ = now_ns;
    reported_tokens_ = stats_.totals.generated_tokens;
    return absl::StrCat(absl::StrFormat("%.0f s: ", ToSeconds(now_ns - begin_ns_)), stats_.ledger.sent(),
                        " sent, ", streams_.size(), " in flight, ",
                        stats_.ledger.count(Outcome::kFailed) + stats_.ledger.count(Outcome::kRejected),
                        " failed or rejected", first ? "" : absl::StrFormat(", %.0f tokens/s", rate));
  }

  struct Timer {
    enum class Act : uint8_t { kCancel, kRead, kEndRest };
    int64_t request;
    Act act;
  };

  const LoadRun& run_;
  const LoadOptions& options_;
  const std::atomic<bool>& stop_;
  const Clock& clock_;
  Random arrivals_;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
  std::unique_ptr<v1::InferenceService::Stub> slow_stub_;
  grpc::CompletionQueue queue_;
  std::unordered_map<int64_t, std::unique_ptr<LoadStream>> streams_;  // by request
  std::multimap<MonotonicNs, Timer> timers_;
  LoadStats stats_;
  bool sending_ = true;
  int64_t resting_ = 0;  // closed loop: clients that were refused and wait
  MonotonicNs begin_ns_ = 0;
  MonotonicNs next_due_ns_ = 0;
  MonotonicNs last_send_ns_ = 0;
  MonotonicNs last_end_ns_ = 0;
  MonotonicNs reported_ns_ = 0;
  int64_t reported_tokens_ = 0;
};

LoadRun::LoadRun(std::vector<std::shared_ptr<grpc::Channel>> channels,
                 std::shared_ptr<grpc::Channel> slow_channel, Workload& workload, const LoadOptions& options)
    : channels_(std::move(channels)),
      slow_channel_(std::move(slow_channel)),
      workload_(workload),
      options_(options) {
  SPILLWAY_CHECK(!channels_.empty());
  SPILLWAY_CHECK((options.rate_per_s > 0) != (options.concurrency > 0));
  SPILLWAY_CHECK(options.requests > 0 || options.duration_ms > 0);
}

LoadRun::~LoadRun() = default;

LoadStats LoadRun::Run(const std::atomic<bool>& stop,
                       const std::function<void(absl::string_view)>& on_second) {
  return Loop(*this, stop).Run(on_second);
}

LoadRates LoadStats::Rates() const {
  LoadRates rates;
  rates.while_sending = sending_s >= wall_s / 2;
  rates.over_s = rates.while_sending ? sending_s : wall_s;
  const LoadTotals& of = rates.while_sending ? sending_totals : totals;
  const auto per_s = [&rates](int64_t n) {
    return rates.over_s > 0 ? static_cast<double>(n) / rates.over_s : 0;
  };
  rates.requests_per_s = per_s(of.requests);
  rates.good_per_s = per_s(of.good);
  rates.prompt_tokens_per_s = per_s(of.prompt_tokens);
  rates.generated_tokens_per_s = per_s(of.generated_tokens);
  return rates;
}

double LoadStats::good_share() const {
  return ledger.sent() == 0 ? 0 : static_cast<double>(totals.good) / static_cast<double>(ledger.sent());
}

double LoadStats::attained_per_s() const {
  return sending_s > 0 ? static_cast<double>(ledger.sent()) / sending_s : 0;
}

nlohmann::json LoadStats::ToJson() const {
  const LoadRates rates = Rates();
  return {{"ledger", ledger.ToJson()},
          {"first_token", first_token.ToJson()},
          {"inter_delta", inter_delta.ToJson()},
          {"inter_token", inter_token.ToJson()},
          {"per_output_token", per_token.ToJson()},
          {"end_to_end", end_to_end.ToJson()},
          {"send_lag", send_lag.ToJson()},
          {"wall_s", wall_s},
          {"sending_s", sending_s},
          {"prompt_tokens", totals.prompt_tokens},
          {"cached_tokens", cached_tokens},
          {"generated_tokens", totals.generated_tokens},
          {"tokens_per_delta",
           deltas == 0 ? 0 : static_cast<double>(totals.generated_tokens) / static_cast<double>(deltas)},
          {"cancel_missed", cancel_missed},
          {"offered_requests_per_s", offered_per_s},
          {"attained_requests_per_s", attained_per_s()},
          {"rates_over", rates.while_sending ? "sending" : "run"},
          {"rates_over_s", rates.over_s},
          {"requests_per_s", rates.requests_per_s},
          {"prompt_tokens_per_s", rates.prompt_tokens_per_s},
          {"generated_tokens_per_s", rates.generated_tokens_per_s},
          {"goodput_requests_per_s", rates.good_per_s},
          {"good_requests", totals.good},
          {"good_share", good_share()},
          {"client_cpu_s", client_cpu_s}};
}

std::vector<std::shared_ptr<grpc::Channel>> OpenLoadChannels(absl::string_view server, int64_t connections,
                                                             const client::Access& access) {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int64_t i = 0; i < connections; ++i) {
    grpc::ChannelArguments arguments = client::DefaultChannelArguments(server);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // else equal channels share a connection
    channels.push_back(client::OpenChannel(server, access, arguments));
  }
  return channels;
}

std::shared_ptr<grpc::Channel> OpenSlowChannel(absl::string_view server, const client::Access& access) {
  grpc::ChannelArguments arguments = client::DefaultChannelArguments(server);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
  return client::OpenChannel(server, access, arguments);
}

}  // namespace spillway::bench
