#include "client/connection.h"

#include <chrono>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace spillway::client {
namespace {

// Of the environment; empty where it is not set.
std::string Variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Whatever is not clearly no is yes: better no connection than a plain one.
bool IsOn(const std::string& value) {
  return !value.empty() && value != "0" && value != "false" && value != "off" && value != "no";
}

}  // namespace

ConnectionOptions DefaultConnectionOptions() {
  ConnectionOptions options;
  options.server = Variable("SPILLWAY_SERVER");
  if (options.server.empty()) options.server = std::string(kDefaultServer);
  options.tls = IsOn(Variable("SPILLWAY_TLS"));
  options.tls_ca = Variable("SPILLWAY_TLS_CA");
  options.tls_client_certificate = Variable("SPILLWAY_TLS_CLIENT_CERTIFICATE");
  options.tls_client_key = Variable("SPILLWAY_TLS_CLIENT_KEY");
  options.tls_server_name = Variable("SPILLWAY_TLS_SERVER_NAME");
  options.token = Variable("SPILLWAY_TOKEN");
  options.token_file = Variable("SPILLWAY_TOKEN_FILE");
  options.traceparent = Variable("TRACEPARENT");
  return options;
}

void AddConnectionFlags(FlagTable& flags, ConnectionOptions* options) {
  flags.Add(
      "server", &options->server, "HOST:PORT",
      absl::StrCat("The daemon. Default: the environment's SPILLWAY_SERVER, else ", kDefaultServer, "."));
  flags.Add("timeout", &options->timeout, "TIME",
            "Give the call up after this long, e.g. 500ms, 30s, 5m. The daemon knows it and stops working.");
  flags.AddSwitch("tls", &options->tls,
                  "Speak TLS, with the system's authorities where --tls_ca names none. (SPILLWAY_TLS)");
  flags.Add("tls_ca", &options->tls_ca, "FILE",
            "PEM file of the authorities that the daemon's certificate is checked with. (SPILLWAY_TLS_CA)");
  flags.Add("tls_client_certificate", &options->tls_client_certificate, "FILE",
            "PEM file: the certificate to show, where the daemon asks for one. "
            "(SPILLWAY_TLS_CLIENT_CERTIFICATE)");
  flags.Add("tls_client_key", &options->tls_client_key, "FILE", "Its private key. (SPILLWAY_TLS_CLIENT_KEY)");
  flags.Add("tls_server_name", &options->tls_server_name, "NAME",
            "The name that the daemon's certificate must have, where that is not the host of --server. "
            "(SPILLWAY_TLS_SERVER_NAME)");
  flags.Add("token_file", &options->token_file, "FILE",
            "File with the token to show. (SPILLWAY_TOKEN_FILE, or the token itself in SPILLWAY_TOKEN)");
  flags.AddSwitch(
      "plain_token", &options->plain_token,
      "Send the token to another machine without TLS too, where something else encrypts the way.");
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
