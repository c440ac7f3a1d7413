// Listener: accepts the connections of the gRPC port and hands them to gRPC. gRPC 1.51's own listener stops
// for ever at the first accept that fails, as it does when descriptors run out, and bounds nothing; this one
// goes on, and closes what is beyond its bound at once, so that descriptors are left for everything else.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_LISTENER_H_
#define SPILLWAY_SERVER_LISTENER_H_

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/call_traffic.h"

namespace spillway::server {

// Why the daemon closed a connection: the first two as soon as it came.
enum class ConnectionRefusal : uint8_t {
  kLimit,        // as many as may be are open
  kDescriptors,  // the process, or the system, has no descriptor left
  kFlood,        // it sent more than its calls account for
};
constexpr int kConnectionRefusals = 3;

struct ConnectionCounts {
  int64_t open = 0;
  int64_t accepted = 0;                                // ever
  std::array<int64_t, kConnectionRefusals> refused{};  // ever, by ConnectionRefusal
};

// What --max_connections comes to: descriptors are kept for everything that is no connection.
int64_t ConnectionLimit(int64_t asked, int64_t max_open_files);

class Listener {
 public:
  // An open descriptor, closed in the end.
  class Descriptor {
   public:
    explicit Descriptor(int fd = -1) : fd_(fd) {}
    ~Descriptor() { Close(); }
    Descriptor(Descriptor&& other) noexcept;
    Descriptor& operator=(Descriptor&& other) noexcept;
    int get() const { return fd_; }
    void Close();
    int Release();

   private:
    int fd_;
  };

  // Takes a connected socket, non-blocking, over: it is closed by the taker. `listening` accepted it.
  using Take = std::function<void(int listening, int connected)>;

  // Binds every address that HOST of HOST:PORT has; port 0 picks one. Nothing is accepted yet. Unavailable,
  // with the cause, when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const std::string& address, int64_t max_connections);
  ~Listener();  // Stop(), and connections are watched no more
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Once. `take` is called on the listener's thread until Stop. With `traffic`, which outlives the listener,
  // connections that send more than their calls account for are cut; their messages may have so many bytes.
  void Start(Take take, CallTraffic* traffic = nullptr, int64_t message_bytes_max = 0);
  // Closes the port. Connections that are there stay, and are watched. Idempotent.
  void Stop();

  // HOST:PORT as bound.
  const std::string& address() const { return address_; }
  ConnectionCounts Counts();

 private:
  // A connection that was handed over. gRPC does not say when it closes one: the descriptor is then no socket
  // any more, or another one.
  struct Connection {
    int fd;
    ino_t inode;
    std::string peer;
    ByteAllowance allowance;
    bool cut = false;
  };

  Listener(std::string address, int64_t max_connections);
  void Work();
  // Accepts what waits at one socket.
  void Accept(int listening);
  void Admit(int listening, Descriptor connected);
  // An accept failed for want of a descriptor: the reserve takes the connection, to close it.
  void TurnAway(int listening, int error);
  void Refuse(ConnectionRefusal why, const char* error);
  // Of another thread: looks at what connections send.
  void Watch();
  // Those that send more than their calls account for; the last one's peer, empty where there is none.
  std::string CutFloods() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetClosed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::string address_;
  const int64_t max_connections_;
  std::vector<Descriptor> sockets_;
  Descriptor wake_;
  Descriptor reserve_;
  Take take_;
  CallTraffic* traffic_ = nullptr;
  int64_t message_bytes_max_ = 0;
  std::thread thread_;
  int64_t last_warning_ns_ = 0;  // the thread's
  std::thread watch_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Connection> connections_ ABSL_GUARDED_BY(mutex_);
  ConnectionCounts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_LISTENER_H_
