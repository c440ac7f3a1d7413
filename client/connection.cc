#include "client/connection.h"

#include <chrono>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace spillway::client {
namespace {

bool IsOnThisMachine(absl::string_view server) {
  return absl::StartsWith(server, "127.") || absl::StartsWith(server, "localhost") ||
         absl::StartsWith(server, "[::1]") || absl::StartsWith(server, "unix:");
}

}  // namespace

ConnectionOptions DefaultConnectionOptions() {
  ConnectionOptions options;
  const char* server = std::getenv("SPILLWAY_SERVER");
  options.server = server != nullptr && *server != '\0' ? server : std::string(kDefaultServer);
  return options;
}

void AddConnectionFlags(FlagTable& flags, ConnectionOptions* options) {
  flags.Add(
      "server", &options->server, "HOST:PORT",
      absl::StrCat("The daemon. Default: the environment's SPILLWAY_SERVER, else ", kDefaultServer, "."));
  flags.Add("timeout", &options->timeout, "TIME",
            "Give the call up after this long, e.g. 500ms, 30s, 5m. The daemon knows it and stops working.");
}

grpc::ChannelArguments DefaultChannelArguments(absl::string_view server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  if (IsOnThisMachine(server)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A daemon that vanished without a word must not be waited for; docs/api.md allows these pings.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // A person who starts the daemon and repeats the command should not wait out a minute of back-off.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  return arguments;
}

std::shared_ptr<grpc::Channel> OpenChannel(absl::string_view server) {
  return grpc::CreateCustomChannel(std::string(server), grpc::InsecureChannelCredentials(),
                                   DefaultChannelArguments(server));
}

void SetDeadline(grpc::ClientContext& context, FlagDuration timeout, int64_t default_timeout_ms) {
  const int64_t timeout_ms = timeout.ms >= 0 ? timeout.ms : default_timeout_ms;
  if (timeout.ms < 0 && default_timeout_ms == 0) return;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
}

bool ActiveCall::Cancel() {
  MutexLock lock(mutex_);
  if (context_ == nullptr || cancelled_) return false;
  cancelled_ = true;
  context_->TryCancel();
  return true;
}

bool ActiveCall::cancelled() const {
  MutexLock lock(mutex_);
  return cancelled_;
}

void ActiveCall::Set(grpc::ClientContext* context) {
  MutexLock lock(mutex_);
  SPILLWAY_CHECK_MSG(context == nullptr || context_ == nullptr, "one call at a time");
  context_ = context;
  if (context != nullptr) cancelled_ = false;
}

}  // namespace spillway::client
