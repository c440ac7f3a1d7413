// grpc.health.v1.Health, for the whole daemon ("") and every service that is named. gRPC's built-in service
// is not used: it says SERVING from the moment the port opens, before anybody can tell it otherwise.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_HEALTH_SERVICE_H_
#define SPILLWAY_SERVER_HEALTH_SERVICE_H_

#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace spillway::server {

class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // NOT_SERVING until told otherwise.
  explicit HealthService(std::vector<std::string> names);

  // One state for all names; watchers hear of a change.
  void SetServing(bool serving);

  // Before shutdown: ends every watch, present and future.
  void EndWatches();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;

  bool Knows(const std::string& name) const;
  grpc::health::v1::HealthCheckResponse::ServingStatus StatusLocked() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<std::string> names_;
  mutable Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_HEALTH_SERVICE_H_
