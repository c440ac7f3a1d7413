// Every metric of the daemon: name, type, unit, labels, help and buckets. The registry (metrics.cc) is filled
// from this table, docs/metrics.md is generated from it, and a test compares both with a scrape.
#ifndef SPILLWAY_SERVER_METRIC_TABLE_H_
#define SPILLWAY_SERVER_METRIC_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spillway::server {

enum class MetricId : uint8_t {
  kBuildInfo,
  kModelInfo,
  kReady,
  kStartTime,
  kProfileUnsaved,
  kSequences,
  kReturnedSequences,
  kRequestsRunning,
  kRequestsWaiting,
  kWaitingTokens,
  kRequestsFinished,
  kRequestsRejected,
  kPromptTokens,
  kCachedTokens,
  kGeneratedTokens,
  kPreemptions,
  kKvBlocks,
  kKvFormBlocks,
  kKvFormBytes,
  kKvFormsDropped,
  kKvPoolUsage,
  kPrefixQueriedTokens,
  kPrefixHitTokens,
  kTimeToFirstToken,
  kFirstTokensMissed,
  kInterToken,
  kQueueTime,
  kPrefillTime,
  kRequestTime,
  kTimePerOutputToken,
  kRequestPromptTokens,
  kRequestGeneratedTokens,
  kStepTime,
  kStepTokens,
  kStepSequences,
  kVisits,
  kStepCachedTokens,
  kLaneBytes,
  kLaneSeconds,
  kPromotedTokens,
  kChunksAhead,
  kRingWaits,
  kPlans,
  kPlanSolveTime,
  kPredictionRatio,
  kResourceFactor,
  kLinkRate,
  kLinkRateShare,
  kScheduledSteps,
  kLargestBatch,
  kPlacementTarget,
  kLimit,
  kMemory,
  kLinkedMemory,
  kConnections,
  kConnectionsRefused,
  kUnfinishedMessages,
  kUnreadAnswers,
  kTenantRequests,
  kTenantTokens,
  kCertificateExpiry,
  kFailedHandshakes,
  kReloads,
  kReloadStale,
  kProcessCpu,
  kProcessResident,
  kProcessVirtual,
  kProcessOpenFds,
  kProcessMaxFds,
  kProcessStart,
};
constexpr int kMetrics = static_cast<int>(MetricId::kProcessStart) + 1;

enum class MetricType : uint8_t { kCounter, kGauge, kHistogram };

struct LabelInfo {
  absl::string_view name;
  // Every value it can take; empty where the set is open (a model's name).
  std::vector<std::string> values;
};

struct MetricInfo {
  MetricId id;
  absl::string_view name;
  MetricType type;
  absl::string_view unit;  // "seconds", "tokens", ...
  std::vector<LabelInfo> labels;
  absl::string_view help;
  std::vector<double> buckets;  // kHistogram: upper bounds
};

// In the order of MetricId.
absl::Span<const MetricInfo> AllMetrics();
const MetricInfo& InfoOf(MetricId id);

// Label values in the order of exec::Lane, and of TokenClasses.
absl::Span<const char* const> LaneNames();
absl::Span<const char* const> TokenClassNames();

// docs/metrics.md.
std::string MetricsDoc();

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_METRIC_TABLE_H_
