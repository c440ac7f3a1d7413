// LoadRun: sends a workload to a daemon and measures what comes back.
//
// One thread and one completion queue drive every stream, so that the measurement takes no locks. In an open
// loop requests are due at Poisson arrivals whatever became of the earlier ones, and every latency counts
// from when a request was *due*, so that a slow daemon cannot slow down its own measurement. In a closed loop
// so many clients each send their next request when the last one has ended, or, where it was refused, when
// the time has passed for which the daemon asked.
#ifndef SPILLWAY_BENCH_LOAD_RUN_H_
#define SPILLWAY_BENCH_LOAD_RUN_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "bench/latency_histogram.h"
#include "bench/ledger.h"
#include "bench/workload.h"
#include "client/channel.h"
#include "grpcpp/channel.h"

namespace spillway::bench {

struct LoadOptions {
  double rate_per_s = 0;    // open loop; 0: closed
  int64_t concurrency = 0;  // closed loop
  int64_t requests = 0;     // 0: as many as fit duration_ms
  int64_t duration_ms = 0;  // 0: until `requests` were sent
  int64_t max_in_flight = 4096;
  int64_t slow_reader_pause_ms = 2000;
  // Streams still open so long after the last send are cancelled.
  int64_t drain_timeout_ms = 300'000;
  int64_t timeout_ms = 0;  // of each request; 0: none
  double slo_ttft_ms = 0;  // 0: no objective
  double slo_tpot_ms = 0;  // of a request's mean time per output token after the first
  double slo_gap_ms = 0;   // of its longest gap between two deltas
  double slo_e2e_ms = 0;   // of the whole request
  uint64_t seed = 1;       // of arrivals
};

// Of requests that ended well, and tokens received of all.
struct LoadTotals {
  int64_t requests = 0;
  int64_t good = 0;  // within the objectives
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
};

// LoadTotals a second.
struct LoadRates {
  // Over the time in which requests were sent, without the tail in which the last ones end and the load
  // falls; over the whole run where that time is less than half of it (as where all was sent at once).
  bool while_sending = false;
  double over_s = 0;
  double requests_per_s = 0;
  double good_per_s = 0;
  double prompt_tokens_per_s = 0;
  double generated_tokens_per_s = 0;
};

struct LoadStats {
  Ledger ledger;
  LatencyHistogram first_token;  // due to first token
  LatencyHistogram inter_delta;  // between two deltas with tokens of one stream: what a reader waits
  LatencyHistogram inter_token;  // the same gaps, shared out evenly among the tokens of the later delta
  LatencyHistogram per_token;    // a request's mean time per output token after the first
  LatencyHistogram end_to_end;   // due to end, of requests that ended well
  LatencyHistogram send_lag;     // due to sent: whether this client keeps up
  LoadTotals totals;
  LoadTotals sending_totals;  // when the last request had been sent
  int64_t cached_tokens = 0;  // of requests that ended well, by their usage
  int64_t deltas = 0;         // that carried tokens
  int64_t cancel_missed = 0;  // planned to be cancelled, but had ended before
  double offered_per_s = 0;   // requests; open loop, else 0
  double sending_s = 0;       // from the first send on
  double wall_s = 0;          // first send to last end
  double client_cpu_s = 0;

  LoadRates Rates() const;
  // Of all requests sent, those that ended well within the objectives.
  double good_share() const;
  // Requests a second that were sent; below what was offered where the client or --max_in_flight held them
  // up.
  double attained_per_s() const;
  nlohmann::json ToJson() const;
};

class LoadRun {
 public:
  // Streams are spread over `channels`; those that read slowly go to `slow_channel`, so that their full flow
  // control window stops nobody else. Everything borrowed must outlive the run.
  LoadRun(std::vector<std::shared_ptr<grpc::Channel>> channels, std::shared_ptr<grpc::Channel> slow_channel,
          Workload& workload, const LoadOptions& options);
  ~LoadRun();
  LoadRun(const LoadRun&) = delete;
  LoadRun& operator=(const LoadRun&) = delete;

  // Blocks until everything sent has ended. `stop` ends it early: open streams are cancelled. `on_second`
  // (may be null) is called about once a second with a line on how it goes.
  LoadStats Run(const std::atomic<bool>& stop, const std::function<void(absl::string_view)>& on_second);

 private:
  class Loop;

  const std::vector<std::shared_ptr<grpc::Channel>> channels_;
  const std::shared_ptr<grpc::Channel> slow_channel_;
  Workload& workload_;
  const LoadOptions options_;
};

// Channels of their own connections each, and one with a small flow-control window for slow readers.
std::vector<std::shared_ptr<grpc::Channel>> OpenLoadChannels(absl::string_view server, int64_t connections,
                                                             const client::Access& access = {});
std::shared_ptr<grpc::Channel> OpenSlowChannel(absl::string_view server, const client::Access& access = {});

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_LOAD_RUN_H_
