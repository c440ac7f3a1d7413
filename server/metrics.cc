#include "server/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <sstream>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "grpcpp/grpcpp.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "server/metric_table.h"
#include "server/process_stats.h"

namespace spillway::server {
namespace {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

constexpr int kFinishReasons = 3;
// A tokens file has as many tenants at most; names that come later share one label.
constexpr size_t kTenantLabels = 256;

absl::string_view FinishName(scheduler::FinishReason reason) {
  switch (reason) {
    case scheduler::FinishReason::kStopToken:
      return "STOP_TOKEN";
    case scheduler::FinishReason::kStopString:
      return "STOP_STRING";
    case scheduler::FinishReason::kLength:
      return "LENGTH";
  }
  return "";
}

// How a request ended, for its duration: a cancelled one says nothing of the daemon's speed.
enum class Outcome : uint8_t { kOk, kCancelled, kFailed };
constexpr int kOutcomes = 3;

const char* NameOf(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOk:
      return "ok";
    case Outcome::kCancelled:
      return "cancelled";
    case Outcome::kFailed:
      return "failed";
  }
  return "";
}

Outcome OutcomeOf(Reason reason) {
  if (reason == Reason::kNone) return Outcome::kOk;
  return reason == Reason::kCancelled ? Outcome::kCancelled : Outcome::kFailed;
}

// A counter that follows a total kept elsewhere.
void Follow(Counter& counter, double total) {
  if (total > counter.Value()) counter.Increment(total - counter.Value());
}

}  // namespace

absl::string_view EndName(const scheduler::RequestRecord& record) {
  if (record.reason != Reason::kNone) return InfoOf(record.reason).name;
  return record.finishes.empty() ? "LENGTH" : FinishName(record.finishes.front());
}

struct Metrics::Impl {
  Impl() {
    for (const MetricInfo& info : AllMetrics()) Register(info);
    for (size_t reason = 1; reason < kReasons; ++reason) {
      const ReasonInfo& info = InfoOf(static_cast<Reason>(reason));
      rejected[reason] = &CounterOf(MetricId::kRequestsRejected, {{"reason", std::string(info.name)}});
      failed[reason] = &CounterOf(MetricId::kRequestsFinished, {{"code", absl::StatusCodeToString(info.code)},
                                                                {"reason", std::string(info.name)}});
    }
    for (size_t finish = 0; finish < kFinishReasons; ++finish) {
      const auto reason = static_cast<scheduler::FinishReason>(finish);
      ended[finish] = &CounterOf(MetricId::kRequestsFinished,
                                 {{"code", "OK"}, {"reason", std::string(FinishName(reason))}});
    }
    // In the order of ConnectionRefusal.
    const std::vector<std::string>& refusals = InfoOf(MetricId::kConnectionsRefused).labels[0].values;
    for (size_t why = 0; why < kConnectionRefusals; ++why) {
      refused[why] = &CounterOf(MetricId::kConnectionsRefused, {{"reason", refusals[why]}});
    }
    for (const exec::Phase phase : {exec::Phase::kDecode, exec::Phase::kPrefill}) {
      const std::string name = phase == exec::Phase::kDecode ? "decode" : "prefill";
      step_time[static_cast<size_t>(phase)] = &HistogramOf(MetricId::kStepTime, {{"phase", name}});
      step_tokens[static_cast<size_t>(phase)] = &CounterOf(MetricId::kStepTokens, {{"phase", name}});
      step_sequences[static_cast<size_t>(phase)] = &HistogramOf(MetricId::kStepSequences, {{"phase", name}});
    }
    for (const Outcome outcome : {Outcome::kOk, Outcome::kCancelled, Outcome::kFailed}) {
      request_time[static_cast<size_t>(outcome)] =
          &HistogramOf(MetricId::kRequestTime, {{"outcome", NameOf(outcome)}});
    }
    for (size_t lane = 0; lane < exec::kLanes; ++lane) {
      const std::string name = LaneNames()[lane];
      lane_bytes[lane] = &CounterOf(MetricId::kLaneBytes, {{"lane", name}});
      lane_busy[lane] = &CounterOf(MetricId::kLaneSeconds, {{"lane", name}, {"state", "busy"}});
      lane_stall[lane] = &CounterOf(MetricId::kLaneSeconds, {{"lane", name}, {"state", "stall"}});
    }
    chunks_ahead_read = &CounterOf(MetricId::kChunksAhead, {{"use", "read"}});
    chunks_dropped = &CounterOf(MetricId::kChunksAhead, {{"use", "dropped"}});
    for (size_t i = 0; i < cached_tokens.size(); ++i) {
      cached_tokens[i] = &CounterOf(MetricId::kStepCachedTokens, {{"class", TokenClassNames()[i]}});
    }
    for (size_t with = 0; with < 2; ++with) {
      prediction[with] =
          &HistogramOf(MetricId::kPredictionRatio, {{"feedback", with == 0 ? "without" : "with"}});
    }
    CollectPlanner(scheduler::PlannerSnapshot());
    CollectSecurity(SecurityCounts());
    GaugeOf(MetricId::kBuildInfo,
            {{"version", SPILLWAY_VERSION}, {"compiler", "gcc " __VERSION__}, {"grpc", grpc::Version()}})
        .Set(1);
  }

  void Register(const MetricInfo& info) {
    const std::string name(info.name);
    const std::string help(info.help);
    switch (info.type) {
      case MetricType::kCounter:
        counters[info.id] = &prometheus::BuildCounter().Name(name).Help(help).Register(registry);
        if (info.labels.empty()) plain_counters[Index(info.id)] = &counters[info.id]->Add({});
        break;
      case MetricType::kGauge:
        gauges[info.id] = &prometheus::BuildGauge().Name(name).Help(help).Register(registry);
        if (info.labels.empty()) plain_gauges[Index(info.id)] = &gauges[info.id]->Add({});
        break;
      case MetricType::kHistogram:
        histograms[info.id] = &prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
        if (info.labels.empty())
          plain_histograms[Index(info.id)] = &histograms[info.id]->Add({}, info.buckets);
        break;
    }
    // One closed label: every value is there from the start, so that a rate over it has a beginning.
    if (info.type == MetricType::kGauge && info.labels.size() == 1) {
      for (const std::string& value : info.labels[0].values) {
        GaugeOf(info.id, {{std::string(info.labels[0].name), value}});
      }
    }
  }

  static size_t Index(MetricId id) { return static_cast<size_t>(id); }

  // Children with labels; not for hot paths.
  Counter& CounterOf(MetricId id, const prometheus::Labels& labels) { return counters.at(id)->Add(labels); }
  Gauge& GaugeOf(MetricId id, const prometheus::Labels& labels) { return gauges.at(id)->Add(labels); }
  Histogram& HistogramOf(MetricId id, const prometheus::Labels& labels) {
    return histograms.at(id)->Add(labels, InfoOf(id).buckets);
  }

  void Count(MetricId id, double amount = 1) {
    if (amount > 0) plain_counters[Index(id)]->Increment(amount);
  }
  void Set(MetricId id, double value) { plain_gauges[Index(id)]->Set(value); }
  void Observe(MetricId id, double value) { ObserveIn(*plain_histograms[Index(id)], value); }
  // One NaN would poison a histogram's sum for ever.
  static void ObserveIn(Histogram& histogram, double value) {
    if (std::isfinite(value) && value >= 0) histogram.Observe(value);
  }

  void CollectScheduler(const scheduler::SchedulerSnapshot& now) {
    const auto state = [this](MetricId id, const char* value) -> Gauge& {
      return GaugeOf(id, {{"state", value}});
    };
    // The snapshot's running ones include the others.
    state(MetricId::kSequences, "decode")
        .Set(std::max(0, now.running_sequences - now.prefilling_sequences - now.paused_sequences));
    state(MetricId::kSequences, "prefill").Set(now.prefilling_sequences);
    state(MetricId::kSequences, "paused").Set(now.paused_sequences);
    Set(MetricId::kReturnedSequences, now.returned_sequences);
    Set(MetricId::kRequestsRunning, now.running_requests);
    Set(MetricId::kRequestsWaiting, now.waiting_requests);
    Set(MetricId::kWaitingTokens, static_cast<double>(now.waiting_tokens));
    state(MetricId::kKvBlocks, "free").Set(static_cast<double>(now.blocks.free_blocks));
    state(MetricId::kKvBlocks, "in_use").Set(static_cast<double>(now.blocks.in_use_blocks));
    state(MetricId::kKvBlocks, "cached").Set(static_cast<double>(now.blocks.cached_blocks));
    Set(MetricId::kKvPoolUsage,
        now.blocks.total_slots == 0
            ? 0
            : static_cast<double>(now.blocks.in_use_slots) / static_cast<double>(now.blocks.total_slots));
    const auto form = [this](const char* name, int64_t blocks, int64_t block_bytes) {
      GaugeOf(MetricId::kKvFormBlocks, {{"form", name}}).Set(static_cast<double>(blocks));
      GaugeOf(MetricId::kKvFormBytes, {{"form", name}}).Set(static_cast<double>(blocks * block_bytes));
    };
    form("kv", now.blocks.forms.kv_blocks, now.kv_block_bytes);
    form("x", now.blocks.forms.x_blocks, now.x_block_bytes);
    form("both", now.blocks.forms.both_blocks, now.kv_block_bytes + now.x_block_bytes);
    Follow(CounterOf(MetricId::kKvFormsDropped, {{"form", "kv"}}),
           static_cast<double>(now.blocks.dropped_kv));
    Follow(CounterOf(MetricId::kKvFormsDropped, {{"form", "x"}}), static_cast<double>(now.blocks.dropped_x));
    Follow(*plain_counters[Index(MetricId::kPrefixQueriedTokens)],
           static_cast<double>(now.prefix_queried_tokens));
    Follow(*plain_counters[Index(MetricId::kPrefixHitTokens)], static_cast<double>(now.prefix_hit_tokens));
    Follow(*plain_counters[Index(MetricId::kVisits)], static_cast<double>(now.visits));
    if (now.planner.has_value()) CollectPlanner(*now.planner);
  }

  void CollectPlanner(const scheduler::PlannerSnapshot& now) {
    const auto result = [this](const char* name, uint64_t total) {
      Follow(CounterOf(MetricId::kPlans, {{"result", name}}), static_cast<double>(total));
    };
    result("memo", now.memo_hits);
    result("solved", now.solves);
    result("failed", now.failures);
    result("late", now.timeouts);
    Follow(*plain_counters[Index(MetricId::kPlanSolveTime)], now.solve_s);
    GaugeOf(MetricId::kResourceFactor, {{"resource", "link_in"}}).Set(now.factors.link_in);
    GaugeOf(MetricId::kResourceFactor, {{"resource", "link_out"}}).Set(now.factors.link_out);
    GaugeOf(MetricId::kResourceFactor, {{"resource", "compute"}}).Set(now.factors.compute);
    GaugeOf(MetricId::kLinkRate, {{"direction", "in"}}).Set(now.link_in_bytes_per_s);
    GaugeOf(MetricId::kLinkRate, {{"direction", "out"}}).Set(now.link_out_bytes_per_s);
    GaugeOf(MetricId::kLinkRateShare, {{"direction", "in"}}).Set(now.link_in_share);
    GaugeOf(MetricId::kLinkRateShare, {{"direction", "out"}}).Set(now.link_out_share);
    for (size_t s = 0; s < now.scheduled.size(); ++s) {
      for (size_t r = 0; r < now.scheduled[s].size(); ++r) {
        const absl::string_view schedule = scheduler::NameOf(static_cast<exec::Schedule>(s));
        const absl::string_view reason = scheduler::NameOf(static_cast<scheduler::ScheduleReason>(r));
        Follow(CounterOf(MetricId::kScheduledSteps,
                         {{"schedule", std::string(schedule)}, {"reason", std::string(reason)}}),
               static_cast<double>(now.scheduled[s][r]));
      }
    }
    Set(MetricId::kLargestBatch, now.schedule.largest_batch);
    const auto target = [this](const char* share, double value) {
      GaugeOf(MetricId::kPlacementTarget, {{"share", share}}).Set(value);
    };
    target("resident_kv", now.targets.resident_kv);
    target("resident_x", now.targets.resident_x);
    target("stored_kv", now.targets.stored_kv);
    target("stored_x", now.targets.stored_x);
    target("stored_both", now.targets.stored_both);
    target("as_x", now.targets.x_share);
  }

  // What the lanes did, and how well it was foreseen.
  void CountLanes(const exec::StepStats& stats) {
    for (size_t lane = 0; lane < exec::kLanes; ++lane) {
      const exec::LaneStats& did = stats.lanes[lane];
      if (did.bytes > 0) lane_bytes[lane]->Increment(static_cast<double>(did.bytes));
      if (did.busy_ns > 0) lane_busy[lane]->Increment(ToSeconds(did.busy_ns));
      if (did.stall_ns > 0) lane_stall[lane]->Increment(ToSeconds(did.stall_ns));
    }
    const exec::TokenClasses& tokens = stats.tokens;
    const int64_t counts[] = {tokens.resident_kv_tokens, tokens.resident_x_tokens, tokens.carried_kv_tokens,
                              tokens.carried_x_tokens, tokens.host_attended_tokens};
    for (size_t i = 0; i < cached_tokens.size(); ++i) {
      if (counts[i] > 0) cached_tokens[i]->Increment(static_cast<double>(counts[i]));
    }
    Count(MetricId::kPromotedTokens, static_cast<double>(stats.promoted_tokens));
    if (stats.chunks_ahead > 0) chunks_ahead_read->Increment(static_cast<double>(stats.chunks_ahead));
    if (stats.chunks_dropped > 0) chunks_dropped->Increment(static_cast<double>(stats.chunks_dropped));
    Count(MetricId::kRingWaits, static_cast<double>(stats.ring_waits));
    const double measured_s = ToSeconds(stats.predicted_ns());
    if (stats.predicted_step_s <= 0 || measured_s <= 0) return;
    ObserveIn(*prediction[0], stats.predicted_step_s / measured_s);
    ObserveIn(*prediction[1], stats.corrected_step_s / measured_s);
  }

  void CollectNetwork(const NetworkCounts& now) {
    Set(MetricId::kConnections, static_cast<double>(now.connections.open));
    for (size_t why = 0; why < kConnectionRefusals; ++why) {
      Follow(*refused[why], static_cast<double>(now.connections.refused[why]));
    }
    Follow(*plain_counters[Index(MetricId::kUnfinishedMessages)],
           static_cast<double>(now.unfinished_messages));
    Follow(*plain_counters[Index(MetricId::kUnreadAnswers)], static_cast<double>(now.unread_answers));
  }

  void CollectSecurity(const SecurityCounts& now) {
    const auto expiry = [this](const char* certificate, const std::optional<int64_t>& unix_s) {
      if (!unix_s.has_value()) return;
      GaugeOf(MetricId::kCertificateExpiry, {{"certificate", certificate}}).Set(static_cast<double>(*unix_s));
    };
    expiry("server", now.certificate_expiry_unix_s);
    expiry("client_ca", now.client_ca_expiry_unix_s);
    Follow(*plain_counters[Index(MetricId::kFailedHandshakes)], static_cast<double>(now.failed_handshakes));
    CollectReloads("tls", now.tls);
    CollectReloads("tokens", now.tokens);
  }

  void CollectReloads(const char* files, const ReloadCounts& now) {
    Follow(CounterOf(MetricId::kReloads, {{"files", files}, {"result", "taken"}}),
           static_cast<double>(now.taken));
    Follow(CounterOf(MetricId::kReloads, {{"files", files}, {"result", "refused"}}),
           static_cast<double>(now.refused));
    GaugeOf(MetricId::kReloadStale, {{"files", files}}).Set(now.stale ? 1 : 0);
  }

  // One tenant's counters; those of the first kTenantLabels, and all others together. They appear at once, so
  // that a rate has a beginning.
  struct TenantCounters {
    Counter *ok, *cancelled, *failed, *rejected, *prompt_tokens, *generated_tokens;
  };
  TenantCounters TenantOf(const std::string& tenant) {
    MutexLock lock(tenants_mutex);
    if (const auto found = tenants.find(tenant); found != tenants.end()) return found->second;
    const std::string label = tenants.size() < kTenantLabels ? tenant : "other";
    const auto requests = [&](const char* outcome) {
      return &CounterOf(MetricId::kTenantRequests, {{"tenant", label}, {"outcome", outcome}});
    };
    const auto tokens = [&](const char* kind) {
      return &CounterOf(MetricId::kTenantTokens, {{"tenant", label}, {"kind", kind}});
    };
    const TenantCounters added = {requests("ok"),       requests("cancelled"), requests("failed"),
                                  requests("rejected"), tokens("prompt"),      tokens("generated")};
    return tenants[label] = added;
  }

  void CollectProcess() {
    const ProcessStats now = ReadProcessStats();
    if (now.cpu_seconds >= 0) Follow(*plain_counters[Index(MetricId::kProcessCpu)], now.cpu_seconds);
    Set(MetricId::kProcessResident, static_cast<double>(now.resident_bytes));
    Set(MetricId::kProcessVirtual, static_cast<double>(now.virtual_bytes));
    Set(MetricId::kProcessOpenFds, static_cast<double>(now.open_fds));
    Set(MetricId::kProcessMaxFds, static_cast<double>(now.max_fds));
    Set(MetricId::kProcessStart, now.start_unix_seconds);
  }

  prometheus::Registry registry;
  std::map<MetricId, prometheus::Family<Counter>*> counters;
  std::map<MetricId, prometheus::Family<Gauge>*> gauges;
  std::map<MetricId, prometheus::Family<Histogram>*> histograms;
  // Children of metrics without labels, by MetricId.
  std::array<Counter*, kMetrics> plain_counters{};
  std::array<Gauge*, kMetrics> plain_gauges{};
  std::array<Histogram*, kMetrics> plain_histograms{};
  std::array<Counter*, kReasons> rejected{};
  std::array<Counter*, kReasons> failed{};
  std::array<Counter*, kFinishReasons> ended{};
  std::array<Counter*, kConnectionRefusals> refused{};
  std::array<Histogram*, 2> step_time{};
  std::array<Counter*, 2> step_tokens{};
  std::array<Histogram*, 2> step_sequences{};
  std::array<Histogram*, kOutcomes> request_time{};
  Counter* chunks_ahead_read = nullptr;
  Counter* chunks_dropped = nullptr;
  std::array<Counter*, exec::kLanes> lane_bytes{}, lane_busy{}, lane_stall{};
  std::array<Counter*, 5> cached_tokens{};  // by class
  std::array<Histogram*, 2> prediction{};   // without feedback, with

  Mutex tenants_mutex;
  std::map<std::string, TenantCounters> tenants ABSL_GUARDED_BY(tenants_mutex);

  Mutex mutex;  // one scrape at a time
  std::function<scheduler::SchedulerSnapshot()> snapshot ABSL_GUARDED_BY(mutex);
  std::function<bool()> ready ABSL_GUARDED_BY(mutex);
  std::function<NetworkCounts()> network ABSL_GUARDED_BY(mutex);
  std::function<SecurityCounts()> security ABSL_GUARDED_BY(mutex);
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

void Metrics::SetModelInfo(absl::string_view model, absl::string_view architecture, absl::string_view dtype,
                           absl::string_view device, absl::string_view fingerprint) {
  impl_
      ->GaugeOf(MetricId::kModelInfo, {{"model", std::string(model)},
                                       {"architecture", std::string(architecture)},
                                       {"dtype", std::string(dtype)},
                                       {"device", std::string(device)},
                                       {"fingerprint", std::string(fingerprint)}})
      .Set(1);
}

void Metrics::SetLimit(absl::string_view what, int64_t limit) {
  impl_->GaugeOf(MetricId::kLimit, {{"what", std::string(what)}}).Set(static_cast<double>(limit));
}

void Metrics::SetMemory(absl::string_view place, absl::string_view use, int64_t bytes) {
  impl_->GaugeOf(MetricId::kMemory, {{"place", std::string(place)}, {"use", std::string(use)}})
      .Set(static_cast<double>(bytes));
}

void Metrics::SetLinkedMemory(absl::string_view use, int64_t bytes, bool page_locked) {
  const auto set = [&](const char* state, bool is_so) {
    impl_->GaugeOf(MetricId::kLinkedMemory, {{"use", std::string(use)}, {"state", state}})
        .Set(is_so ? static_cast<double>(bytes) : 0);
  };
  set("page_locked", page_locked);
  set("pageable", !page_locked);
}

void Metrics::SetStartTime(absl::string_view phase, double seconds) {
  impl_->GaugeOf(MetricId::kStartTime, {{"phase", std::string(phase)}}).Set(seconds);
}

void Metrics::SetProfileUnsaved(bool is_unsaved) {
  impl_->Set(MetricId::kProfileUnsaved, is_unsaved ? 1 : 0);
}

void Metrics::SetSources(std::function<scheduler::SchedulerSnapshot()> snapshot,
                         std::function<bool()> ready) {
  MutexLock lock(impl_->mutex);
  impl_->snapshot = std::move(snapshot);
  impl_->ready = std::move(ready);
}

void Metrics::SetNetworkSource(std::function<NetworkCounts()> network) {
  MutexLock lock(impl_->mutex);
  impl_->network = std::move(network);
}

void Metrics::SetSecuritySource(std::function<SecurityCounts()> security) {
  MutexLock lock(impl_->mutex);
  impl_->security = std::move(security);
}

void Metrics::OnStep(const exec::StepStats& stats) {
  const auto phase = static_cast<size_t>(stats.phase);
  Impl::ObserveIn(*impl_->step_time[phase], ToSeconds(stats.active_ns));
  Impl::ObserveIn(*impl_->step_sequences[phase], stats.sequences);
  if (stats.rows > 0) impl_->step_tokens[phase]->Increment(stats.rows);
  impl_->Count(MetricId::kGeneratedTokens, stats.sampled_rows);
  impl_->CountLanes(stats);
}

void Metrics::OnFirstToken(double seconds_since_arrival) {
  impl_->Observe(MetricId::kTimeToFirstToken, seconds_since_arrival);
}

void Metrics::OnScheduled(double queue_seconds) { impl_->Observe(MetricId::kQueueTime, queue_seconds); }

void Metrics::OnPrefilled(double prefill_seconds, int32_t prompt_tokens, int32_t cached_tokens) {
  impl_->Observe(MetricId::kPrefillTime, prefill_seconds);
  impl_->Count(MetricId::kPromptTokens, prompt_tokens);
  impl_->Count(MetricId::kCachedTokens, cached_tokens);
}

void Metrics::OnTokens(int32_t tokens, double gap_seconds) {
  for (int32_t i = 0; i < tokens; ++i) impl_->Observe(MetricId::kInterToken, gap_seconds / tokens);
}

void Metrics::OnPreempted() { impl_->Count(MetricId::kPreemptions); }

void Metrics::OnFinished(const scheduler::RequestRecord& record) {
  if (record.reason != Reason::kNone) {
    impl_->failed[static_cast<size_t>(record.reason)]->Increment();
  } else {
    const auto finish = record.finishes.empty() ? scheduler::FinishReason::kLength : record.finishes.front();
    impl_->ended[static_cast<size_t>(finish)]->Increment();
  }
  if (record.reason == Reason::kDeadlineExceeded && record.usage.generated_tokens == 0) {
    impl_->Count(MetricId::kFirstTokensMissed);
  }
  Impl::ObserveIn(*impl_->request_time[static_cast<size_t>(OutcomeOf(record.reason))],
                  record.usage.timings.total_ms / 1e3);
  if (!record.tenant.empty()) {
    const Impl::TenantCounters tenant = impl_->TenantOf(record.tenant);
    const Outcome outcome = OutcomeOf(record.reason);
    (outcome == Outcome::kOk          ? tenant.ok
     : outcome == Outcome::kCancelled ? tenant.cancelled
                                      : tenant.failed)
        ->Increment();
    tenant.prompt_tokens->Increment(record.usage.prompt_tokens);
    tenant.generated_tokens->Increment(record.usage.generated_tokens);
  }
  impl_->Observe(MetricId::kRequestPromptTokens, record.usage.prompt_tokens);
  impl_->Observe(MetricId::kRequestGeneratedTokens, record.usage.generated_tokens);
  if (record.reason == Reason::kNone && record.longest_choice_tokens > 1) {
    impl_->Observe(MetricId::kTimePerOutputToken,
                   record.usage.timings.decode_ms / 1e3 / (record.longest_choice_tokens - 1));
  }
}

void Metrics::OnTenantRejected(const std::string& tenant) { impl_->TenantOf(tenant).rejected->Increment(); }

void Metrics::OnRejected(Reason reason) {
  SPILLWAY_CHECK(reason != Reason::kNone);
  impl_->rejected[static_cast<size_t>(reason)]->Increment();
}

std::string Metrics::Scrape() {
  MutexLock lock(impl_->mutex);
  if (impl_->snapshot != nullptr) impl_->CollectScheduler(impl_->snapshot());
  impl_->Set(MetricId::kReady, impl_->ready != nullptr && impl_->ready() ? 1 : 0);
  if (impl_->network != nullptr) impl_->CollectNetwork(impl_->network());
  if (impl_->security != nullptr) impl_->CollectSecurity(impl_->security());
  impl_->CollectProcess();
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, impl_->registry.Collect());
  return out.str();
}

}  // namespace spillway::server
