#include "server/tls_files.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/small_file.h"
#include "base/status_macros.h"

namespace spillway::server {
namespace {

constexpr int64_t kWeek_s = 7 * 24 * 3600;

int64_t RealUnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

absl::Status About(absl::string_view flag, const std::string& path, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", path, ": ", status.message()));
}

absl::StatusOr<std::string> ReadNamed(absl::string_view flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return About(flag, path, text.status());
  return text;
}

std::string Date(int64_t unix_s) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixSeconds(unix_s), absl::UTCTimeZone());
}

}  // namespace

TlsFiles::TlsFiles(TlsPaths paths, UnixClock now_unix_s)
    : paths_(std::move(paths)),
      now_unix_s_(now_unix_s != nullptr ? std::move(now_unix_s) : UnixClock(&RealUnixSeconds)) {}

absl::StatusOr<std::unique_ptr<TlsFiles>> TlsFiles::Load(const TlsPaths& paths, UnixClock now_unix_s) {
  auto out = std::unique_ptr<TlsFiles>(new TlsFiles(paths, std::move(now_unix_s)));
  SPILLWAY_ASSIGN_OR_RETURN(const Texts texts, out->Read());
  SPILLWAY_ASSIGN_OR_RETURN(TlsMaterial material, out->Check(texts));
  out->Take(std::move(material));
  out->WarnOfExpiry();
  return out;
}

absl::StatusOr<TlsFiles::Texts> TlsFiles::Read() const {
  Texts texts;
  SPILLWAY_ASSIGN_OR_RETURN(texts.certificate, ReadNamed("tls_certificate", paths_.certificate));
  SPILLWAY_ASSIGN_OR_RETURN(texts.key, ReadNamed("tls_key", paths_.key));
  if (!paths_.client_ca.empty()) {
    SPILLWAY_ASSIGN_OR_RETURN(texts.client_ca, ReadNamed("tls_client_ca", paths_.client_ca));
  }
  return texts;
}

absl::StatusOr<TlsMaterial> TlsFiles::Check(const Texts& texts) const {
  const int64_t now = now_unix_s_();
  TlsMaterial material{texts.certificate, texts.key, texts.client_ca, {}, {}, 0};
  const auto chain = CheckServerChain(texts.certificate, texts.key, now);
  if (!chain.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--tls_certificate=", paths_.certificate, ", --tls_key=",
                                                   paths_.key, ": ", chain.status().message()));
  }
  material.chain = *chain;
  if (paths_.client_ca.empty()) return material;
  const auto authorities = ReadCertificates(texts.client_ca);
  if (!authorities.ok()) return About("tls_client_ca", paths_.client_ca, authorities.status());
  const auto expiry = [](const CertificateFacts& one) { return one.not_after_unix_s; };
  const auto [first, last] = std::minmax_element(
      authorities->begin(), authorities->end(),
      [&](const CertificateFacts& a, const CertificateFacts& b) { return expiry(a) < expiry(b); });
  // One that is good lets its clients in; with none, nobody could come.
  if (const absl::Status valid = CheckValidAt(*last, now); !valid.ok()) {
    return About("tls_client_ca", paths_.client_ca, valid);
  }
  material.client_ca_expiry_s = first->not_after_unix_s;
  return material;
}

void TlsFiles::Take(TlsMaterial material) {
  MutexLock lock(mutex_);
  material.generation = current_ == nullptr ? 1 : current_->generation + 1;
  current_ = std::make_shared<const TlsMaterial>(std::move(material));
}

void TlsFiles::Reload() {
  LookForNew();
  WarnOfExpiry();
}

void TlsFiles::LookForNew() {
  const absl::StatusOr<Texts> texts = Read();
  if (!texts.ok()) return Refuse(texts.status());
  const std::shared_ptr<const TlsMaterial> before = current();
  if (*texts == Texts{before->certificate, before->key, before->client_ca}) return record_.OnSame();
  absl::StatusOr<TlsMaterial> material = Check(*texts);
  if (!material.ok()) return Refuse(material.status());
  Take(*std::move(material));
  record_.OnTaken();
  const std::shared_ptr<const TlsMaterial> now = current();
  Log(LogLevel::kInfo, "the TLS files changed: new connections use them",
      {{"subject", now->chain.server.subject},
       {"expires", Date(now->chain.first_to_expire.not_after_unix_s)}});
}

void TlsFiles::Refuse(const absl::Status& why) {
  if (!record_.OnBad(why.message())) return;
  Log(LogLevel::kError, "the TLS files changed and cannot be used: those before stay in effect",
      {{"error", why.message()}, {"expires", Date(current()->chain.first_to_expire.not_after_unix_s)}});
}

void TlsFiles::WarnOfExpiry() {
  const std::shared_ptr<const TlsMaterial> now = current();
  const CertificateFacts& first = now->chain.first_to_expire;
  const int64_t left_s = first.not_after_unix_s - now_unix_s_();
  if (left_s < 0 && warned_expired_ != now->generation) {
    warned_expired_ = now->generation;
    Log(LogLevel::kError, "the TLS certificate has expired: clients refuse it; renew --tls_certificate",
        {{"subject", first.subject}, {"expired", Date(first.not_after_unix_s)}});
  } else if (left_s >= 0 && left_s < kWeek_s && warned_expiring_ != now->generation) {
    warned_expiring_ = now->generation;
    Log(LogLevel::kWarning, "the TLS certificate expires within a week; renew --tls_certificate",
        {{"subject", first.subject}, {"expires", Date(first.not_after_unix_s)}});
  }
}

std::shared_ptr<const TlsMaterial> TlsFiles::current() const {
  MutexLock lock(mutex_);
  return current_;
}

}  // namespace spillway::server
