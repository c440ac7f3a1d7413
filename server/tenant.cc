#include "server/tenant.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/reason.h"

namespace spillway::server {
namespace {

constexpr double kMinute_s = 60;

}  // namespace

void Tenant::Place::Leave() {
  if (tenant_ == nullptr) return;
  {
    MutexLock lock(tenant_->mutex_);
    --tenant_->running_;
  }
  tenant_.reset();
}

void Tenant::SetLimits(const TenantLimits& limits, MonotonicNs now_ns) {
  MutexLock lock(mutex_);
  if (limits.tokens_per_minute != limits_.tokens_per_minute) {
    if (limits.tokens_per_minute == 0 || limits_.tokens_per_minute == 0) {
      full_ = true;
    } else {
      Refill(now_ns);  // at the rate so far
      const auto most = static_cast<double>(limits.tokens_per_minute);
      left_tokens_ = std::max(-most, left_tokens_ * most / static_cast<double>(limits_.tokens_per_minute));
    }
  }
  limits_ = limits;
}

absl::StatusOr<Tenant::Place> Tenant::Enter() {
  MutexLock lock(mutex_);
  const int64_t limit = limits_.max_concurrent_requests;
  if (limit > 0 && running_ >= limit) {
    return MakeError(Reason::kTenantRequests,
                     absl::StrCat("tenant ", name_, " has ", limit, " requests running, as many as it may"),
                     {{"limit", absl::StrCat(limit)}, {"tenant", name_}});
  }
  ++running_;
  return Place(shared_from_this());
}

void Tenant::Refill(MonotonicNs now_ns) {
  const auto most = static_cast<double>(limits_.tokens_per_minute);
  if (full_) {
    full_ = false;
    left_tokens_ = most;
  } else {
    left_tokens_ = std::min(most, left_tokens_ + most / kMinute_s * ToSeconds(now_ns - refilled_ns_));
  }
  refilled_ns_ = now_ns;
}

absl::Status Tenant::Spend(int64_t prompt_tokens, MonotonicNs now_ns) {
  MutexLock lock(mutex_);
  const int64_t limit = limits_.tokens_per_minute;
  if (limit == 0) return absl::OkStatus();
  Refill(now_ns);
  const auto needed = static_cast<double>(std::min(prompt_tokens, limit));
  if (left_tokens_ < needed) {
    const double wait_s = (needed - left_tokens_) / (static_cast<double>(limit) / kMinute_s);
    return MakeError(Reason::kTenantTokens,
                     absl::StrCat("tenant ", name_, " has used its ", limit, " tokens per minute"),
                     {{"limit", absl::StrCat(limit)},
                      {"value", absl::StrCat(prompt_tokens)},
                      {"tenant", name_},
                      {"retry_after_ms", absl::StrCat(static_cast<int64_t>(std::ceil(wait_s * 1e3)))}});
  }
  left_tokens_ -= static_cast<double>(prompt_tokens);
  return absl::OkStatus();
}

void Tenant::Pay(int64_t generated_tokens, MonotonicNs now_ns) {
  MutexLock lock(mutex_);
  if (limits_.tokens_per_minute == 0) return;
  Refill(now_ns);
  left_tokens_ -= static_cast<double>(generated_tokens);
}

void Tenant::GiveBack(int64_t prompt_tokens) {
  MutexLock lock(mutex_);
  left_tokens_ += static_cast<double>(prompt_tokens);
}

int64_t Tenant::running() {
  MutexLock lock(mutex_);
  return running_;
}

}  // namespace spillway::server
