#include "server/security.h"

#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "server/grpc_log.h"
#include "server/network_address.h"

namespace spillway::server {
namespace {

// A look reads a few small files: what they say is compared, not their times, which lie when files are
// copied.
constexpr std::chrono::milliseconds kBetweenLooks(1000);

}  // namespace

absl::StatusOr<std::unique_ptr<Security>> Security::Load(const Settings& settings) {
  auto out = std::unique_ptr<Security>(new Security());
  if (!settings.tls_certificate.empty()) {
    SPILLWAY_ASSIGN_OR_RETURN(
        out->tls_, TlsFiles::Load({settings.tls_certificate, settings.tls_key, settings.tls_client_ca}));
  }
  if (!settings.tokens_file.empty()) {
    SPILLWAY_ASSIGN_OR_RETURN(out->tokens_, TokenFile::Load(settings.tokens_file));
  }
  if (out->tls_ != nullptr || out->tokens_ != nullptr)
    out->thread_ = std::thread([security = out.get()] { security->Work(); });
  return out;
}

Security::~Security() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
}

void Security::Work() {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!stopping_) changed_.WaitFor(mutex_, kBetweenLooks);
      if (stopping_) return;
    }
    if (tls_ != nullptr) tls_->Reload();
    if (tokens_ != nullptr) tokens_->Reload();
  }
}

SecurityCounts Security::Counts() const {
  SecurityCounts out;
  out.failed_handshakes = FailedHandshakes();
  if (tokens_ != nullptr) out.tokens = tokens_->counts();
  if (tls_ == nullptr) return out;
  out.tls = tls_->counts();
  const std::shared_ptr<const TlsMaterial> now = tls_->current();
  out.certificate_expiry_unix_s = now->chain.first_to_expire.not_after_unix_s;
  out.client_ca_expiry_unix_s = now->client_ca_expiry_s;
  return out;
}

void Security::WarnOfExposure(const Settings& settings) const {
  for (const std::string& address : {settings.listen, settings.admin_listen}) {
    if (address.empty() || IsLoopback(address)) continue;
    if (tls_ == nullptr) {
      Log(LogLevel::kWarning,
          "OTHER MACHINES CAN REACH THE DAEMON IN PLAIN TEXT: give --tls_certificate and --tls_key, or put a "
          "proxy with TLS in front",
          {{"address", address}});
    }
    if (tokens_ != nullptr && tls_ == nullptr) {
      Log(LogLevel::kWarning, "TOKENS COME IN PLAIN TEXT: who sees the network may take them",
          {{"address", address}});
    }
    if (tokens_ == nullptr && (tls_ == nullptr || !tls_->wants_client_certificates())) {
      Log(LogLevel::kWarning,
          "ANYBODY WHO REACHES THE DAEMON MAY USE IT: give --tokens_file or --tls_client_ca, or put a proxy "
          "that "
          "authenticates in front",
          {{"address", address}});
    }
    const bool serves_admin = settings.admin_listen.empty() || address == settings.admin_listen;
    if (tokens_ == nullptr && tls_ != nullptr && tls_->wants_client_certificates() && serves_admin) {
      Log(LogLevel::kWarning,
          "EVERY CLIENT WITH A CERTIFICATE IS AN OPERATOR, who may drain the daemon: give --tokens_file, or "
          "--admin_listen on an address that clients do not reach",
          {{"address", address}});
    }
  }
}

}  // namespace spillway::server
