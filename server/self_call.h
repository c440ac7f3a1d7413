// A trivial call of the server to itself, ten times a second. gRPC 1.51's callback API polls with threads
// that go to sleep for 100 ms at a time after a second without events, and a call that comes then waits for
// them; this keeps them from it. Costs about a thousandth of a core.
#ifndef SPILLWAY_SERVER_SELF_CALL_H_
#define SPILLWAY_SERVER_SELF_CALL_H_

#include <memory>
#include <thread>

#include "base/mutex.h"
#include "grpcpp/channel.h"

namespace spillway::server {

class SelfCall {
 public:
  // Over a channel to a server that serves grpc.health.v1.
  explicit SelfCall(std::shared_ptr<grpc::Channel> channel);
  ~SelfCall();
  SelfCall(const SelfCall&) = delete;
  SelfCall& operator=(const SelfCall&) = delete;

 private:
  void Work();

  const std::shared_ptr<grpc::Channel> channel_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SELF_CALL_H_
