#include "server/request_log.h"

#include <utility>

#include "absl/status/status.h"
#include "base/log.h"
#include "base/reason.h"
#include "server/metrics.h"

namespace spillway::server {
namespace {

constexpr size_t kMaxWaiting = 4096;

void WriteLine(const scheduler::RequestRecord& record) {
  // A defect of ours is an error; what clients and load cause is not.
  const LogLevel level = record.reason == Reason::kInternal || record.reason == Reason::kEngineFailed
                             ? LogLevel::kError
                             : LogLevel::kInfo;
  const scheduler::UsageEvent& usage = record.usage;
  Log(level, "request finished",
      {{"request_id", record.label},
       {"tenant", record.tenant},
       {"trace_id", record.trace_id},
       {"parent_span_id", record.parent_span_id},
       {"method", record.method},
       {"peer", record.peer},
       {"code", absl::StatusCodeToString(InfoOf(record.reason).code)},
       {"reason", EndName(record)},
       {"prompt_tokens", usage.prompt_tokens},
       {"cached_tokens", usage.cached_tokens},
       {"generated_tokens", usage.generated_tokens},
       {"resident_kv_tokens", record.attended.resident_kv_tokens},
       {"resident_x_tokens", record.attended.resident_x_tokens},
       {"carried_kv_tokens", record.attended.carried_kv_tokens},
       {"carried_x_tokens", record.attended.carried_x_tokens},
       {"host_attended_tokens", record.attended.host_attended_tokens},
       {"choices", record.choices},
       {"preemptions", usage.preemptions},
       {"priority", record.priority},
       {"queue_ms", usage.timings.queue_ms},
       {"prefill_ms", usage.timings.prefill_ms},
       {"decode_ms", usage.timings.decode_ms},
       {"first_token_ms", usage.timings.first_token_ms},
       {"total_ms", usage.timings.total_ms}});
}

void WriteLine(const Refusal& refusal) {
  const LogLevel level = refusal.reason == Reason::kInternal ? LogLevel::kError : LogLevel::kInfo;
  Log(level, "request refused",
      {{"request_id", refusal.request_id},
       {"tenant", refusal.tenant},
       {"trace_id", refusal.trace_id},
       {"method", refusal.method},
       {"peer", refusal.peer},
       {"code", absl::StatusCodeToString(InfoOf(refusal.reason).code)},
       {"reason", InfoOf(refusal.reason).name},
       {"message", refusal.message}});
}

}  // namespace

RequestLog::RequestLog()
    : RequestLog([](const scheduler::RequestRecord& record) { WriteLine(record); }, kMaxWaiting) {}

RequestLog::RequestLog(Write write, size_t max_waiting)
    : write_(std::move(write)), max_waiting_(max_waiting), thread_([this] { Work(); }) {}

RequestLog::~RequestLog() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void RequestLog::Add(const scheduler::RequestRecord& record) {
  {
    MutexLock lock(mutex_);
    if (waiting_.size() >= max_waiting_) {
      ++dropped_;
      return;
    }
    waiting_.push_back(record);
  }
  changed_.NotifyOne();
}

void RequestLog::Add(Refusal refusal) {
  // A field's value may be anything that a client sent.
  constexpr size_t kMessageBytes = 512;
  if (refusal.message.size() > kMessageBytes) refusal.message.resize(kMessageBytes);
  const MonotonicNs now_ns = Clock::Real().NowNs();
  {
    MutexLock lock(mutex_);
    if (now_ns - second_begin_ns_ >= kNsPerSecond) {
      second_begin_ns_ = now_ns;
      refusals_in_second_ = 0;
    }
    if (++refusals_in_second_ > kRefusalsPerSecond) {
      ++unsaid_refusals_;
      return;
    }
    refusals_.push_back(std::move(refusal));
  }
  changed_.NotifyOne();
}

void RequestLog::Work() {
  while (true) {
    std::vector<scheduler::RequestRecord> batch;
    std::vector<Refusal> refusals;
    int64_t dropped = 0;
    int64_t unsaid = 0;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && refusals_.empty() && !stopping_) changed_.Wait(mutex_);
      if (waiting_.empty() && refusals_.empty()) return;
      batch.swap(waiting_);
      refusals.swap(refusals_);
      dropped = std::exchange(dropped_, 0);
      unsaid = std::exchange(unsaid_refusals_, 0);
    }
    for (const scheduler::RequestRecord& record : batch) write_(record);
    if (unsaid > 0) Log(LogLevel::kInfo, "more requests were refused than are logged", {{"lines", unsaid}});
    for (const Refusal& refusal : refusals) WriteLine(refusal);
    if (dropped > 0) Log(LogLevel::kWarning, "lines of finished requests were dropped", {{"lines", dropped}});
  }
}

}  // namespace spillway::server
