// grpc.health.v1.Health, for the whole daemon ("") and every service that is named. gRPC's built-in service
// is not used: it says SERVING from the moment the port opens, before anybody can tell it otherwise.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_HEALTH_SERVICE_H_
#define SPILLWAY_SERVER_HEALTH_SERVICE_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/message_call.h"

namespace spillway::server {

class HealthService final : public MessageService {
 public:
  // NOT_SERVING until told otherwise. `waits` must outlive the service.
  HealthService(std::vector<std::string> names, CallWaits& waits);

  // One state for all names; watchers hear of a change.
  void SetServing(bool serving);

  // Before shutdown: ends every watch, present and future.
  void EndWatches();

 private:
  class Watcher;

  void Check(AnswerCall& call, const grpc::ByteBuffer& bytes);
  // Called when its message is here; false, and nothing more, where too many watch, of its connection or in
  // all.
  bool Register(Watcher& watcher, const std::string& name);
  void ForgetLocked(Watcher& watcher) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Knows(const std::string& name) const;
  grpc::health::v1::HealthCheckResponse::ServingStatus StatusLocked() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<std::string> names_;
  mutable Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> watchers_by_peer_ ABSL_GUARDED_BY(mutex_);  // of those that have some
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_HEALTH_SERVICE_H_
