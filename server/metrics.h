// The daemon's metrics: hears of what the scheduler and the services do, and writes Prometheus' text format.
// Which metrics there are is the table's to say (metric_table.h); metrics.cc alone includes prometheus
// headers.
//
// Thread-safe. What happens once a token or step costs well below a microsecond: children are looked up at
// construction.
#ifndef SPILLWAY_SERVER_METRICS_H_
#define SPILLWAY_SERVER_METRICS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/reason.h"
#include "scheduler/scheduler.h"
#include "server/listener.h"
#include "server/security_counts.h"

namespace spillway::server {

struct NetworkCounts {
  ConnectionCounts connections;
  int64_t unfinished_messages = 0;
  int64_t unread_answers = 0;
};

class Metrics : public scheduler::Observer {
 public:
  Metrics();
  ~Metrics() override;
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // --- Told at start.
  void SetModelInfo(absl::string_view model, absl::string_view architecture, absl::string_view dtype,
                    absl::string_view device, absl::string_view fingerprint);
  // `what`, `place` and `use` as in the table.
  void SetLimit(absl::string_view what, int64_t limit);
  void SetMemory(absl::string_view place, absl::string_view use, int64_t bytes);
  void SetLinkedMemory(absl::string_view use, int64_t bytes, bool page_locked);
  // Of kStartPhases.
  void SetStartTime(absl::string_view phase, double seconds);
  void SetProfileUnsaved(bool is_unsaved);
  // Asked at every scrape until replaced; empty while there is no scheduler.
  void SetSources(std::function<scheduler::SchedulerSnapshot()> snapshot, std::function<bool()> ready);
  // Likewise; empty while there is no port.
  void SetNetworkSource(std::function<NetworkCounts()> network);
  // Likewise.
  void SetSecuritySource(std::function<SecurityCounts()> security);

  // --- scheduler::Observer. OnRejected also hears of what the services refuse.
  void OnStep(const exec::StepStats& stats) override;
  void OnFirstToken(double seconds_since_arrival) override;
  void OnScheduled(double queue_seconds) override;
  void OnPrefilled(double prefill_seconds, int32_t prompt_tokens, int32_t cached_tokens) override;
  void OnTokens(int32_t tokens, double gap_seconds) override;
  void OnPreempted() override;
  void OnFinished(const scheduler::RequestRecord& record) override;
  void OnRejected(Reason reason) override;
  // Of a call whose tenant is known, besides OnRejected.
  void OnTenantRejected(const std::string& tenant);

  // The text format, version 0.0.4.
  std::string Scrape();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The `reason` label of a finished request: how its first choice ended, or why it failed.
absl::string_view EndName(const scheduler::RequestRecord& record);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_METRICS_H_
