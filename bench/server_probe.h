// ServerProbe: the daemon under load as seen from outside: its model, its status, its metrics, and how its
// memory grows.
#ifndef SPILLWAY_BENCH_SERVER_PROBE_H_
#define SPILLWAY_BENCH_SERVER_PROBE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "bench/metrics_text.h"
#include "client/channel.h"
#include "grpcpp/channel.h"
#include "nlohmann/json.hpp"
#include "spillway/v1/admin.pb.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::bench {

struct ServerSnapshot {
  v1::GetStatusResponse status;
  MetricsText metrics;  // empty without a metrics address
};

// Thread-compatible.
class ServerProbe {
 public:
  // `metrics_url` may be empty, and `admin`, which is then `server`.
  ServerProbe(absl::string_view server, absl::string_view metrics_url, const client::Access& access = {},
              absl::string_view admin = "");

  // Errors are one line with the remedy.
  absl::StatusOr<v1::Model> GetModel();
  absl::StatusOr<ServerSnapshot> Snapshot();
  // Waits until nothing runs, nothing waits and no block is in use, `timeout_ms` at most; the last snapshot.
  absl::StatusOr<ServerSnapshot> SnapshotWhenIdle(int64_t timeout_ms);

  const std::string& server() const { return server_; }
  const std::string& metrics_url() const { return metrics_url_; }

 private:
  const std::string server_;
  const std::string admin_;
  const std::string metrics_url_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::shared_ptr<grpc::Channel> admin_channel_;
};

inline bool IsIdle(const v1::GetStatusResponse& status) {
  return status.running_requests() == 0 && status.running_sequences() == 0 &&
         status.waiting_requests() == 0 && status.blocks().in_use() == 0;
}

struct MemorySample {
  double seconds = 0;  // since sampling began
  double resident_bytes = 0;
};

// Bytes a second by least squares over the samples from `skip_s` on; 0 with fewer than two.
double ResidentSlope(absl::Span<const MemorySample> samples, double skip_s);

// Reads process_resident_memory_bytes every `interval_ms` on a thread of its own until destroyed or stopped.
class MemorySampler {
 public:
  MemorySampler(std::string metrics_url, int64_t interval_ms);
  ~MemorySampler();
  MemorySampler(const MemorySampler&) = delete;
  MemorySampler& operator=(const MemorySampler&) = delete;

  // Ends sampling; what was seen, in order of time.
  std::vector<MemorySample> Stop();

 private:
  void Loop();

  const std::string metrics_url_;
  const int64_t interval_ms_;
  Mutex mutex_;
  CondVar stopping_changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<MemorySample> samples_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SERVER_PROBE_H_
