// Connection: one daemon as the commands see it, and the flags that say which.
#ifndef SPILLWAY_CLIENT_CONNECTION_H_
#define SPILLWAY_CLIENT_CONNECTION_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "client/flags.h"
#include "grpcpp/client_context.h"

namespace spillway::client {

// "127.0.0.1:8090", where spillwayd listens by default.
constexpr absl::string_view kDefaultServer = "127.0.0.1:8090";

// Where the flags say nothing, the environment does (DefaultConnectionOptions): SPILLWAY_ and the name.
struct ConnectionOptions {
  std::string server;        // else kDefaultServer
  FlagDuration timeout{-1};  // of a call; negative: the command's own default; no variable
  bool tls = false;          // so do the others that begin with tls
  std::string tls_ca;        // empty: the system's authorities
  std::string tls_client_certificate;
  std::string tls_client_key;
  std::string tls_server_name;  // empty: the host of `server`
  std::string token;            // the variable alone: arguments are seen by everybody on the machine
  std::string token_file;
  bool plain_token = false;  // no variable
  std::string traceparent;   // TRACEPARENT alone
};

ConnectionOptions DefaultConnectionOptions();
void AddConnectionFlags(FlagTable& flags, ConnectionOptions* options);

// Sets the call's deadline: `timeout` where one was given, else `default_timeout_ms` (0: none).
void SetDeadline(grpc::ClientContext& context, FlagDuration timeout, int64_t default_timeout_ms);

// The call that Ctrl-C should cancel. Thread-safe.
class ActiveCall {
 public:
  // While this lives, Cancel() cancels `context`. One at a time.
  class Scope {
   public:
    Scope(ActiveCall& active, grpc::ClientContext& context) : active_(active) { active_.Set(&context); }
    ~Scope() { active_.Set(nullptr); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    ActiveCall& active_;
  };

  // False where no call was active, or the active one had been cancelled before.
  bool Cancel();
  // Whether Cancel() cancelled the latest call.
  bool cancelled() const;

 private:
  void Set(grpc::ClientContext* context);

  mutable Mutex mutex_;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_CONNECTION_H_
