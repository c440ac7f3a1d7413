#include "bench/server_probe.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "bench/http_get.h"
#include "client/call_error.h"
#include "client/connection.h"
#include "spillway/v1/admin.grpc.pb.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::bench {
namespace {

constexpr int64_t kCallTimeoutMs = 15'000;
constexpr std::chrono::milliseconds kPollInterval{100};

absl::Status ToStatus(const grpc::Status& status, absl::string_view server) {
  std::string text = client::DescribeError(client::DecodeError(status), server);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return absl::UnavailableError(text);
}

}  // namespace

ServerProbe::ServerProbe(absl::string_view server, absl::string_view metrics_url,
                         const client::Access& access, absl::string_view admin)
    : server_(server),
      admin_(admin.empty() ? server : admin),
      metrics_url_(metrics_url),
      channel_(client::OpenChannel(server_, access)),
      admin_channel_(client::OpenChannel(admin_, access)) {}

absl::StatusOr<v1::Model> ServerProbe::GetModel() {
  grpc::ClientContext call;
  client::SetDeadline(call, {-1}, kCallTimeoutMs);
  v1::GetModelResponse response;
  const grpc::Status status = v1::InferenceService::NewStub(channel_)->GetModel(&call, {}, &response);
  if (!status.ok()) return ToStatus(status, server_);
  return response.model();
}

absl::StatusOr<ServerSnapshot> ServerProbe::Snapshot() {
  ServerSnapshot snapshot;
  grpc::ClientContext call;
  client::SetDeadline(call, {-1}, kCallTimeoutMs);
  const grpc::Status status =
      v1::AdminService::NewStub(admin_channel_)->GetStatus(&call, {}, &snapshot.status);
  if (!status.ok()) return ToStatus(status, admin_);
  if (!metrics_url_.empty()) {
    SPILLWAY_ASSIGN_OR_RETURN(const std::string text, HttpGet(metrics_url_));
    snapshot.metrics = MetricsText::Parse(text);
  }
  return snapshot;
}

absl::StatusOr<ServerSnapshot> ServerProbe::SnapshotWhenIdle(int64_t timeout_ms) {
  const MonotonicNs give_up_ns = Clock::Real().NowNs() + timeout_ms * kNsPerMs;
  while (true) {
    absl::StatusOr<ServerSnapshot> snapshot = Snapshot();
    if (!snapshot.ok() || IsIdle(snapshot->status) || Clock::Real().NowNs() >= give_up_ns) return snapshot;
    std::this_thread::sleep_for(kPollInterval);
  }
}

double ResidentSlope(absl::Span<const MemorySample> samples, double skip_s) {
  double n = 0;
  double sum_t = 0;
  double sum_b = 0;
  for (const MemorySample& sample : samples) {
    if (sample.seconds < skip_s) continue;
    n += 1;
    sum_t += sample.seconds;
    sum_b += sample.resident_bytes;
  }
  if (n < 2) return 0;
  double covariance = 0;
  double variance = 0;
  for (const MemorySample& sample : samples) {
    if (sample.seconds < skip_s) continue;
    covariance += (sample.seconds - sum_t / n) * (sample.resident_bytes - sum_b / n);
    variance += (sample.seconds - sum_t / n) * (sample.seconds - sum_t / n);
  }
  return variance > 0 ? covariance / variance : 0;
}

MemorySampler::MemorySampler(std::string metrics_url, int64_t interval_ms)
    : metrics_url_(std::move(metrics_url)), interval_ms_(interval_ms), thread_([this] { Loop(); }) {}

MemorySampler::~MemorySampler() { Stop(); }

std::vector<MemorySample> MemorySampler::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    stopping_changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  MutexLock lock(mutex_);
  return samples_;
}

void MemorySampler::Loop() {
  const MonotonicNs begin_ns = Clock::Real().NowNs();
  while (true) {
    const absl::StatusOr<std::string> text = HttpGet(metrics_url_);
    const std::optional<double> resident =
        text.ok() ? MetricsText::Parse(*text).Find("process_resident_memory_bytes") : std::nullopt;
    MutexLock lock(mutex_);
    if (resident.has_value()) {
      samples_.push_back({ToSeconds(Clock::Real().NowNs() - begin_ns), *resident});
    }
    if (!stopping_) stopping_changed_.WaitFor(mutex_, std::chrono::milliseconds(interval_ms_));
    if (stopping_) return;
  }
}

}  // namespace spillway::bench
