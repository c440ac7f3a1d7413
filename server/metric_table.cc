#include "server/metric_table.h"

#include <iterator>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/reason.h"
#include "server/start_times.h"

namespace spillway::server {
namespace {

std::vector<std::string> ReasonNames() {
  std::vector<std::string> names;
  for (const ReasonInfo& info : AllReasons()) names.emplace_back(info.name);
  return names;
}

// How requests end: the reasons of failures, and the ways to end well.
std::vector<std::string> EndNames() {
  std::vector<std::string> names = {"STOP_TOKEN", "STOP_STRING", "LENGTH"};
  for (std::string& name : ReasonNames()) names.push_back(std::move(name));
  return names;
}

std::vector<std::string> CodeNames() {
  std::vector<std::string> names = {"OK"};
  for (const ReasonInfo& info : AllReasons()) {
    const std::string name = absl::StatusCodeToString(info.code);
    bool known = false;
    for (const std::string& other : names) known = known || other == name;
    if (!known) names.push_back(name);
  }
  return names;
}

// 1, 2, 4, ... 2^last.
std::vector<double> PowersOfTwo(int last) {
  std::vector<double> out;
  for (int exponent = 0; exponent <= last; ++exponent) out.push_back(static_cast<double>(1 << exponent));
  return out;
}

constexpr const char* kLaneNames[] = {"weight_load", "x_load", "kv_load", "compute", "kv_store", "x_store"};
constexpr const char* kTokenClassNames[] = {"resident_kv", "resident_x", "carried_kv", "carried_x",
                                            "host_attended"};

std::vector<std::string> Names(absl::Span<const char* const> names) { return {names.begin(), names.end()}; }

std::vector<MetricInfo> MakeTable() {
  using enum MetricId;
  using enum MetricType;
  // Between tokens and of steps: where service levels lie (some 10 to 300 ms) steps of a half at most.
  const std::vector<double> gaps = {0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02,
                                    0.03,  0.04,  0.05,  0.075, 0.1,    0.15, 0.2,   0.3,
                                    0.5,   0.75,  1,     2,     5,      10,   20,    60};
  const std::vector<double> first_token = {0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075,
                                           0.1,   0.15,  0.2,   0.3,  0.5,  0.75, 1,    2,    5,
                                           10,    20,    60,    120,  300,  600,  1800, 3600};
  const std::vector<double> spans = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5,  1,
                                     2,     5,     10,    20,   60,   120,  300, 600, 1800, 3600};
  const std::vector<double> tokens = PowersOfTwo(20);
  const std::vector<double> sequences = PowersOfTwo(12);
  const LabelInfo phase = {"phase", {"decode", "prefill"}};
  return {
      {kBuildInfo,
       "spillway_build_info",
       kGauge,
       "",
       {{"version", {}}, {"compiler", {}}, {"grpc", {}}},
       "Always 1; the labels say what was built.",
       {}},
      {kModelInfo,
       "spillway_model_info",
       kGauge,
       "",
       {{"model", {}}, {"architecture", {}}, {"dtype", {}}, {"device", {}}, {"fingerprint", {}}},
       "Always 1 once a model is loaded; the labels say which, on what device.",
       {}},
      {kReady,
       "spillway_ready",
       kGauge,
       "",
       {},
       "1 while requests are served; 0 while loading, draining or failed.",
       {}},

      {kStartTime,
       "spillway_start_seconds",
       kGauge,
       "seconds",
       {{"phase", {std::begin(kStartPhases), std::end(kStartPhases)}}},
       "How long each phase of the start took: reading and decoding the model, reading or measuring the "
       "profile, mapping the pool (and pinning it; where that fails, measuring the link again), the "
       "executor's memory, and warming up.",
       {}},
      {kProfileUnsaved,
       "spillway_profile_unsaved",
       kGauge,
       "",
       {},
       "1 where this start measured the machine's profile and could not save it: the next one measures "
       "again. "
       "The log has the cause.",
       {}},
      {kSequences,
       "spillway_sequences",
       kGauge,
       "sequences",
       {{"state", {"decode", "prefill", "paused"}}},
       "Sequences (choices of requests) that hold a place and blocks: generating, computing their prompt, or "
       "paused because their reader is slow.",
       {}},
      {kReturnedSequences,
       "spillway_sequences_returned",
       kGauge,
       "sequences",
       {},
       "Sequences of running requests that wait for a place: preempted ones, and further choices.",
       {}},
      {kRequestsRunning,
       "spillway_requests_running",
       kGauge,
       "requests",
       {},
       "Requests that were scheduled and have not ended, preempted and paused ones included.",
       {}},
      {kRequestsWaiting,
       "spillway_requests_waiting",
       kGauge,
       "requests",
       {},
       "Requests in the queue: accepted and not yet scheduled. --max_queue bounds these.",
       {}},
      {kWaitingTokens,
       "spillway_waiting_tokens",
       kGauge,
       "tokens",
       {},
       "Prompt tokens of the requests in the queue.",
       {}},
      {kRequestsFinished,
       "spillway_requests_finished_total",
       kCounter,
       "requests",
       {{"code", CodeNames()}, {"reason", EndNames()}},
       "Requests that were accepted and ended, by gRPC code and reason; for OK, how the first choice ended.",
       {}},
      {kRequestsRejected,
       "spillway_requests_rejected_total",
       kCounter,
       "requests",
       {{"reason", ReasonNames()}},
       "Requests refused before they were queued.",
       {}},

      {kPromptTokens,
       "spillway_prompt_tokens_total",
       kCounter,
       "tokens",
       {},
       "Prompt tokens of requests whose prompt is done, cached ones included.",
       {}},
      {kCachedTokens,
       "spillway_cached_tokens_total",
       kCounter,
       "tokens",
       {},
       "Of these, tokens that were found in the prefix cache and not computed, as Usage.cached_tokens says "
       "it. "
       "A request counts when its first token is there; spillway_prefix_hit_tokens_total counts at once.",
       {}},
      {kGeneratedTokens, "spillway_generated_tokens_total", kCounter, "tokens", {}, "Tokens generated.", {}},
      {kPreemptions,
       "spillway_preemptions_total",
       kCounter,
       "preemptions",
       {},
       "Times that a running request lost its cache to another and was queued again.",
       {}},

      {kKvBlocks,
       "spillway_kv_blocks",
       kGauge,
       "blocks",
       {{"state", {"free", "in_use", "cached"}}},
       "Blocks of the KV pool: held by sequences, kept to be found again, and what free memory holds as K "
       "and V.",
       {}},
      {kKvFormBlocks,
       "spillway_kv_form_blocks",
       kGauge,
       "blocks",
       {{"form", {"kv", "x", "both"}}},
       "Blocks of the KV pool, in use and cached, by how they are stored: as K and V, as X, or as both.",
       {}},
      {kKvFormBytes,
       "spillway_kv_form_bytes",
       kGauge,
       "bytes",
       {{"form", {"kv", "x", "both"}}},
       "What these blocks take of the KV pool.",
       {}},
      {kKvFormsDropped,
       "spillway_kv_forms_dropped_total",
       kCounter,
       "blocks",
       {{"form", {"kv", "x"}}},
       "Blocks stored in both forms that lost this one to make room.",
       {}},
      {kKvPoolUsage,
       "spillway_kv_pool_usage_ratio",
       kGauge,
       "ratio",
       {},
       "What sequences hold of the KV pool's memory.",
       {}},
      {kPrefixQueriedTokens,
       "spillway_prefix_queried_tokens_total",
       kCounter,
       "tokens",
       {},
       "Prompt tokens looked up in the prefix cache: the whole prompt of each request when it is first "
       "scheduled, once however many choices it has and however often it is preempted.",
       {}},
      {kPrefixHitTokens,
       "spillway_prefix_hit_tokens_total",
       kCounter,
       "tokens",
       {},
       "Of these, tokens found there, then or before it was their turn to be computed because another "
       "request "
       "computed them meanwhile. Requests that end before their first token count too, unlike in "
       "spillway_cached_tokens_total.",
       {}},

      {kTimeToFirstToken,
       "spillway_time_to_first_token_seconds",
       kHistogram,
       "seconds",
       {},
       "From a request's arrival to its first token.",
       first_token},
      {kFirstTokensMissed,
       "spillway_first_tokens_missed_total",
       kCounter,
       "requests",
       {},
       "Requests that were accepted and whose deadline passed before their first token.",
       {}},
      {kInterToken,
       "spillway_inter_token_seconds",
       kHistogram,
       "seconds",
       {},
       "Between two tokens of one choice.",
       gaps},
      {kQueueTime,
       "spillway_queue_seconds",
       kHistogram,
       "seconds",
       {},
       "From a request's arrival to its first step.",
       spans},
      {kPrefillTime,
       "spillway_prefill_seconds",
       kHistogram,
       "seconds",
       {},
       "From a request's first step to its first token.",
       first_token},
      {kRequestTime,
       "spillway_request_seconds",
       kHistogram,
       "seconds",
       {{"outcome", {"ok", "cancelled", "failed"}}},
       "From an accepted request's arrival to its end. failed: ended with an error, deadlines and slow "
       "readers "
       "included.",
       spans},
      {kTimePerOutputToken,
       "spillway_time_per_output_token_seconds",
       kHistogram,
       "seconds",
       {},
       "Of a request that ended well: from its first to its last token, for each token after the first of "
       "its "
       "longest choice.",
       gaps},
      {kRequestPromptTokens,
       "spillway_request_prompt_tokens",
       kHistogram,
       "tokens",
       {},
       "Prompt tokens of a request that was accepted and ended.",
       tokens},
      {kRequestGeneratedTokens,
       "spillway_request_generated_tokens",
       kHistogram,
       "tokens",
       {},
       "Tokens generated for a request that was accepted and ended, over all its choices.",
       tokens},
      {kStepTime,
       "spillway_step_seconds",
       kHistogram,
       "seconds",
       {phase},
       "Computing time of one pass through the layers.",
       gaps},
      {kStepTokens,
       "spillway_step_tokens_total",
       kCounter,
       "tokens",
       {phase},
       "Tokens computed, recomputed ones included.",
       {}},
      {kStepSequences,
       "spillway_step_sequences",
       kHistogram,
       "sequences",
       {phase},
       "Sequences that one pass computed together.",
       sequences},
      {kVisits,
       "spillway_visits_total",
       kCounter,
       "visits",
       {},
       "Visits (a chunk of one layer) made; stands still when the engine does.",
       {}},
      {kStepCachedTokens,
       "spillway_step_cached_tokens_total",
       kCounter,
       "tokens",
       {{"class", Names(kTokenClassNames)}},
       "Cached tokens of steps, per layer, by how they reached attention; a block that several sequences "
       "share "
       "counts once.",
       {}},
      {kLaneBytes,
       "spillway_lane_bytes_total",
       kCounter,
       "bytes",
       {{"lane", Names(kLaneNames)}},
       "Bytes that each lane moved. 0 where the device reads the cache in place.",
       {}},
      {kLaneSeconds,
       "spillway_lane_seconds_total",
       kCounter,
       "seconds",
       {{"lane", Names(kLaneNames)}, {"state", {"busy", "stall"}}},
       "Time in which a lane worked, and in which it had work and waited for another lane or for a slot.",
       {}},
      {kPromotedTokens,
       "spillway_promoted_tokens_total",
       kCounter,
       "tokens",
       {},
       "Of the carried tokens, per layer, those that stay on the device from then on.",
       {}},
      {kChunksAhead,
       "spillway_chunks_ahead_total",
       kCounter,
       "chunks",
       {{"use", {"read", "dropped"}}},
       "Carried chunks that were fetched before their step began, and chunks that were fetched and not read: "
       "a sequence of theirs ended, the plan changed, or others needed the room.",
       {}},
      {kRingWaits,
       "spillway_ring_waits_total",
       kCounter,
       "waits",
       {},
       "Carried chunks for which the staging ring had no free slot when they came next: the copies run as "
       "far ahead "
       "as they can. Whether they then waited is in the stall time of the lanes.",
       {}},

      {kPlans,
       "spillway_plans_total",
       kCounter,
       "plans",
       {{"result", {"memo", "solved", "failed", "late"}}},
       "Steps whose split was known (memo) or not there in time (late), and answers of the solver that were "
       "used "
       "(solved) or could not be (failed): then the last good plan serves. All metrics of planning are 0 "
       "where "
       "the device reads the cache in place, or without a profile.",
       {}},
      {kPlanSolveTime,
       "spillway_plan_solve_seconds_total",
       kCounter,
       "seconds",
       {},
       "Time of the planner's thread in the solver.",
       {}},
      {kPredictionRatio,
       "spillway_step_prediction_ratio",
       kHistogram,
       "ratio",
       {{"feedback", {"without", "with"}}},
       "Predicted over measured time of a planned step, from the profile alone and corrected by feedback.",
       {0.25, 0.5, 0.67, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.25, 1.5, 2, 4}},
      {kResourceFactor,
       "spillway_resource_factor_ratio",
       kGauge,
       "ratio",
       {{"resource", {"link_in", "link_out", "compute"}}},
       "Feedback: by how much longer a resource takes than the profile says; 1 without a planner.",
       {}},
      {kLinkRate,
       "spillway_link_rate_bytes_per_second",
       kGauge,
       "bytes per second",
       {{"direction", {"in", "out"}}},
       "Bytes by busy time of the link's lanes, recent steps weighing most.",
       {}},
      {kLinkRateShare,
       "spillway_link_rate_share_ratio",
       kGauge,
       "ratio",
       {{"direction", {"in", "out"}}},
       "The same, of the profile's rate.",
       {}},
      {kScheduledSteps,
       "spillway_scheduled_steps_total",
       kCounter,
       "steps",
       {{"schedule", {"row", "column"}},
        {"reason",
         {"FORCED", "LATENCY_WANTED", "ONE_BATCH_FITS", "WEIGHTS_RESIDENT", "WEIGHTS_STREAMED",
          "PROMPTS_WAIT"}}},
       "Planned steps by the schedule that they ran in, and why.",
       {}},
      {kLargestBatch,
       "spillway_largest_batch",
       kGauge,
       "sequences",
       {},
       "Sequences of one batch that --max_sequences and the memory allow, as the planner sees it.",
       {}},
      {kPlacementTarget,
       "spillway_placement_target_ratio",
       kGauge,
       "ratio",
       {{"share", {"resident_kv", "resident_x", "stored_kv", "stored_x", "stored_both", "as_x"}}},
       "Of the cached tokens: what should be resident on the device in either form, and stored on the host "
       "as KV only, X only or both; and of those that are carried, as X (as_x).",
       {}},

      {kLimit,
       "spillway_limit",
       kGauge,
       "",
       {{"what", {"sequences", "waiting_requests", "context_tokens", "connections"}}},
       "What bounds this daemon: sequences that run at once, requests that wait, tokens of one sequence, "
       "connections. "
       "For alerts on how near it is to them.",
       {}},
      {kMemory,
       "spillway_memory_bytes",
       kGauge,
       "bytes",
       {{"place", {"host", "device"}}, {"use", {"weights", "kv_pool", "kv_cache", "staging", "scratch"}}},
       "Memory taken at start, by place and use.",
       {}},
      {kLinkedMemory,
       "spillway_linked_memory_bytes",
       kGauge,
       "bytes",
       {{"use", {"weights", "kv_pool"}}, {"state", {"page_locked", "pageable"}}},
       "Host memory that a link carries from and to. What could not be page-locked is pageable: its copies "
       "are slower, as the log says with the limit.",
       {}},
      {kConnections,
       "spillway_connections",
       kGauge,
       "connections",
       {},
       "Open connections of the gRPC port.",
       {}},
      {kConnectionsRefused,
       "spillway_connections_refused_total",
       kCounter,
       "connections",
       {{"reason", {"limit", "descriptors", "flood"}}},
       "Connections that the daemon closed: as they came, being more than --max_connections (limit) or with "
       "no "
       "file descriptor left (descriptors); or when they had sent more than their calls account for (flood).",
       {}},
      {kUnfinishedMessages,
       "spillway_unfinished_messages_total",
       kCounter,
       "calls",
       {},
       "Calls given up because their message did not come whole within --receive_timeout_ms.",
       {}},
      {kUnreadAnswers,
       "spillway_unread_answers_total",
       kCounter,
       "calls",
       {},
       "Answered calls given up because their client did not read the answer for --slow_reader_timeout_ms.",
       {}},
      {kTenantRequests,
       "spillway_tenant_requests_total",
       kCounter,
       "requests",
       {{"tenant", {}}, {"outcome", {"ok", "cancelled", "failed", "rejected"}}},
       "Requests of each tenant of --tokens_file, by how they ended; rejected: nothing was computed. The "
       "first "
       "256 tenants have a label of their own, others are `other`.",
       {}},
      {kTenantTokens,
       "spillway_tenant_tokens_total",
       kCounter,
       "tokens",
       {{"tenant", {}}, {"kind", {"prompt", "generated"}}},
       "Tokens of each tenant's finished requests.",
       {}},
      {kCertificateExpiry,
       "spillway_tls_certificate_expiry_timestamp_seconds",
       kGauge,
       "seconds",
       // Open, so that none is there where there is no TLS: 0 would have expired.
       {{"certificate", {}}},
       "When the certificate in effect expires, since the epoch. server: the first to do so of "
       "--tls_certificate's chain, client_ca: the authority of --tls_client_ca that expires first. Absent "
       "without TLS.",
       {}},
      {kFailedHandshakes,
       "spillway_tls_handshakes_failed_total",
       kCounter,
       "handshakes",
       {},
       "TLS handshakes that failed: plain text, or a certificate that the daemon or the client refuses. "
       "Those "
       "that never end are not among them.",
       {}},
      {kReloads,
       "spillway_reloads_total",
       kCounter,
       "reloads",
       {{"files", {"tls", "tokens"}}, {"result", {"taken", "refused"}}},
       "Files that changed while the daemon served, and were taken, or refused because they cannot be used.",
       {}},
      {kReloadStale,
       "spillway_reload_stale",
       kGauge,
       "",
       {{"files", {"tls", "tokens"}}},
       "1 while what is in effect is not what the files say, because that was refused.",
       {}},
      {kProcessCpu,
       "process_cpu_seconds_total",
       kCounter,
       "seconds",
       {},
       "User and system time of the process.",
       {}},
      {kProcessResident,
       "process_resident_memory_bytes",
       kGauge,
       "bytes",
       {},
       "Resident memory of the process.",
       {}},
      {kProcessVirtual,
       "process_virtual_memory_bytes",
       kGauge,
       "bytes",
       {},
       "Virtual memory of the process.",
       {}},
      {kProcessOpenFds, "process_open_fds", kGauge, "descriptors", {}, "Open file descriptors.", {}},
      {kProcessMaxFds, "process_max_fds", kGauge, "descriptors", {}, "Limit of open file descriptors.", {}},
      {kProcessStart,
       "process_start_time_seconds",
       kGauge,
       "seconds",
       {},
       "Start of the process, since the epoch.",
       {}},
  };
}

}  // namespace

absl::Span<const char* const> LaneNames() { return kLaneNames; }
absl::Span<const char* const> TokenClassNames() { return kTokenClassNames; }

absl::Span<const MetricInfo> AllMetrics() {
  static const std::vector<MetricInfo>& table = *new std::vector<MetricInfo>(MakeTable());
  return table;
}

const MetricInfo& InfoOf(MetricId id) {
  const MetricInfo& info = AllMetrics()[static_cast<size_t>(id)];
  SPILLWAY_CHECK(info.id == id);
  return info;
}

}  // namespace spillway::server
