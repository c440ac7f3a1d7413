// Tenant: one customer of the daemon, what it may take of it, and what it has taken.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_TENANT_H_
#define SPILLWAY_SERVER_TENANT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace spillway::server {

// 0: no limit.
struct TenantLimits {
  int64_t max_concurrent_requests = 0;
  int64_t tokens_per_minute = 0;
  bool operator==(const TenantLimits&) const = default;
};

class Tenant : public std::enable_shared_from_this<Tenant> {
 public:
  // A request's place among those of its tenant, from its arrival to its end. Move-only; empty by default.
  class Place {
   public:
    Place() = default;
    ~Place() { Leave(); }
    Place(Place&& other) noexcept : tenant_(std::move(other.tenant_)) {}
    Place& operator=(Place&& other) noexcept {
      if (this == &other) return *this;
      Leave();
      tenant_ = std::move(other.tenant_);
      return *this;
    }

   private:
    friend class Tenant;
    explicit Place(std::shared_ptr<Tenant> tenant) : tenant_(std::move(tenant)) {}
    void Leave();

    std::shared_ptr<Tenant> tenant_;
  };

  Tenant(std::string name, const TenantLimits& limits) : name_(std::move(name)), limits_(limits) {}

  const std::string& name() const { return name_; }
  // Where its tokens per minute change, what is left of them changes in proportion: a tenant that had spent
  // all has nothing left, and one that owes waits no longer than it had to, and no longer than a minute until
  // it owes nothing. A tenant that had no such limit begins anew.
  void SetLimits(const TenantLimits& limits, MonotonicNs now_ns);

  // kTenantRequests where as many run as may.
  absl::StatusOr<Place> Enter();

  // Tokens come back evenly, up to a minute's; a tenant begins with these. A prompt is paid when its request
  // is queued: kTenantTokens, with the time to wait, where less is left than it costs (or than a whole
  // minute's, so that a long prompt is served at all). What is generated is paid afterwards, whatever is
  // left: a tenant in debt waits.
  absl::Status Spend(int64_t prompt_tokens, MonotonicNs now_ns);
  void Pay(int64_t generated_tokens, MonotonicNs now_ns);
  // Of a request that was refused after Spend.
  void GiveBack(int64_t prompt_tokens);

  int64_t running();

 private:
  // REQUIRES: there is a limit of tokens.
  void Refill(MonotonicNs now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string name_;
  Mutex mutex_;
  TenantLimits limits_ ABSL_GUARDED_BY(mutex_);
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool full_ ABSL_GUARDED_BY(mutex_) = true;  // nothing was spent yet
  double left_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  MonotonicNs refilled_ns_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TENANT_H_
