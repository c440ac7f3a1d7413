// CallTraffic: by connection, how far its calls have come. A connection that sends and sends while no call of
// its begins or goes on is in the middle of headers without end: gRPC 1.51 bounds them only for clients that
// acknowledge its settings, and keeps or searches all of them. The listener, which sees the sockets, cuts
// such a connection.
//
// Connections go by the names that gRPC has for them (grpc::ServerContext::peer). Thread-safe.
#ifndef SPILLWAY_SERVER_CALL_TRAFFIC_H_
#define SPILLWAY_SERVER_CALL_TRAFFIC_H_

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/mutex.h"

namespace spillway::server {

class CallTraffic {
 public:
  struct Account {
    int64_t steps = 0;      // calls that began, messages that came whole or will not come
    int64_t receiving = 0;  // calls whose message is on its way
  };

  // The connection is counted from now on, until it is forgotten. Calls of others are not.
  void Open(const std::string& peer);
  void Forget(const std::string& peer);

  // A call began, and its message is to come.
  void OnReceiving(const std::string& peer);
  // The message is here, or will not come.
  void OnReceived(const std::string& peer);
  // A call began that is refused without its message.
  void OnRefused(const std::string& peer);

  // Zeros where it is not counted.
  Account Of(const std::string& peer) const;

 private:
  void Step(const std::string& peer, int64_t receiving);

  mutable Mutex mutex_;
  std::unordered_map<std::string, Account> accounts_ ABSL_GUARDED_BY(mutex_);
};

// What a socket has carried since it was connected.
struct SocketBytes {
  int64_t received = 0;  // and was read: what waits in the system is nobody's yet
  int64_t sent = 0;      // and was acknowledged
};

// How much a connection may send between two steps of its calls. What a client sends at once is read before
// its first call begins, and on a busy machine long before: a little too much is a flood only where it lasts.
class ByteAllowance {
 public:
  // Of a connection that comes now. `message_bytes_max`: of a call's message. Times are in seconds.
  ByteAllowance(int64_t message_bytes_max, double now_s)
      : message_bytes_max_(message_bytes_max), step_s_(now_s) {}

  // False where it has sent far more, or has been over its allowance for a second with no step. Looked at
  // every now and then.
  bool Allows(const SocketBytes& bytes, const CallTraffic::Account& account, double now_s);

 private:
  int64_t message_bytes_max_;
  SocketBytes at_step_;  // when a step was last seen
  int64_t steps_ = 0;
  double step_s_;
  std::optional<double> over_since_s_;  // the allowance; none where it is not over, or a step came
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_CALL_TRAFFIC_H_
