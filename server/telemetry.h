// The scheduler's observer in the daemon: metrics, and a log line for every finished request. Deaf until told
// to listen, so that the warm-up at start counts nowhere.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_TELEMETRY_H_
#define SPILLWAY_SERVER_TELEMETRY_H_

#include <atomic>
#include <utility>

#include "base/clock.h"
#include "scheduler/scheduler.h"
#include "server/metrics.h"
#include "server/request_log.h"
#include "server/token_file.h"

namespace spillway::server {

class Telemetry final : public scheduler::Observer {
 public:
  // Both must outlive this. `tokens`, where there are some: their tenants pay for what is generated.
  explicit Telemetry(Metrics& metrics, TokenFile* tokens = nullptr) : metrics_(metrics), tokens_(tokens) {}

  void Listen() { listening_.store(true, std::memory_order_release); }

  void OnStep(const exec::StepStats& stats) override {
    if (listening()) metrics_.OnStep(stats);
  }
  void OnFirstToken(double seconds_since_arrival) override {
    if (listening()) metrics_.OnFirstToken(seconds_since_arrival);
  }
  void OnScheduled(double queue_seconds) override {
    if (listening()) metrics_.OnScheduled(queue_seconds);
  }
  void OnPrefilled(double prefill_seconds, int32_t prompt_tokens, int32_t cached_tokens) override {
    if (listening()) metrics_.OnPrefilled(prefill_seconds, prompt_tokens, cached_tokens);
  }
  void OnTokens(int32_t tokens, double gap_seconds) override {
    if (listening()) metrics_.OnTokens(tokens, gap_seconds);
  }
  void OnPreempted() override {
    if (listening()) metrics_.OnPreempted();
  }
  void OnFinished(const scheduler::RequestRecord& record) override {
    if (!listening()) return;
    metrics_.OnFinished(record);
    if (tokens_ != nullptr) {
      tokens_->Pay(record.tenant, record.usage.generated_tokens, Clock::Real().NowNs());
    }
    log_.Add(record);
  }
  void OnRejected(Reason reason) override {
    if (listening()) metrics_.OnRejected(reason);
  }

  // A call that a service turned away, at any time; any thread.
  void OnRefused(Refusal refusal) {
    metrics_.OnRejected(refusal.reason);
    LogRefused(std::move(refusal));
  }
  // One that the scheduler turned away, and has counted.
  void LogRefused(Refusal refusal) {
    if (!refusal.tenant.empty()) metrics_.OnTenantRejected(refusal.tenant);
    log_.Add(std::move(refusal));
  }

 private:
  bool listening() const { return listening_.load(std::memory_order_acquire); }

  Metrics& metrics_;
  TokenFile* const tokens_;
  RequestLog log_;
  std::atomic<bool> listening_{false};
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TELEMETRY_H_
