#include "server/certificates.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/freed_by.h"
#include "base/status_macros.h"

namespace spillway::server {
namespace {

using Bio = std::unique_ptr<BIO, FreedBy<BIO_free>>;
using Certificate = std::unique_ptr<X509, FreedBy<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, FreedBy<EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, FreedBy<SSL_CTX_free>>;

// The last error that OpenSSL noted, in its words; forgets all of them.
std::string LastError() {
  const unsigned long error = ERR_peek_last_error();  // NOLINT(google-runtime-int): OpenSSL's type
  const char* const reason = ERR_reason_error_string(error);
  ERR_clear_error();
  return reason == nullptr ? "unknown error" : reason;
}

Bio BioOf(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

int64_t UnixSeconds(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return timegm(&parts);
}

std::string SubjectOf(X509* certificate) {
  const Bio out(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(out.get(), X509_get_subject_name(certificate), 0,
                     XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB);
  char* text = nullptr;
  const auto size = BIO_get_mem_data(out.get(), &text);
  return {text, static_cast<size_t>(size)};
}

// A key file with a password cannot be read by a daemon: nobody is asked, and OpenSSL reports the failure.
int NoPassword(char* /*buffer*/, int /*size*/, int /*writing*/, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

absl::StatusOr<Key> ReadKey(const std::string& pem) {
  bool asked = false;
  Key key(PEM_read_bio_PrivateKey(BioOf(pem).get(), nullptr, &NoPassword, &asked));
  if (key != nullptr) return key;
  const std::string error = LastError();
  if (asked) {
    return absl::InvalidArgumentError(
        "the key has a password; give one without (openssl pkey -in KEY -out NEW)");
  }
  return absl::InvalidArgumentError(absl::StrCat("no private key in PEM can be read (", error, ")"));
}

}  // namespace

absl::StatusOr<std::vector<CertificateFacts>> ReadCertificates(const std::string& pem) {
  std::vector<CertificateFacts> found;
  const Bio bio = BioOf(pem);
  while (true) {
    const Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (certificate == nullptr) break;
    found.push_back({SubjectOf(certificate.get()), UnixSeconds(X509_get0_notBefore(certificate.get())),
                     UnixSeconds(X509_get0_notAfter(certificate.get()))});
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string error = LastError();
  if (!at_end) {
    return absl::InvalidArgumentError(
        absl::StrCat("certificate ", found.size() + 1, " cannot be read (", error, ")"));
  }
  if (found.empty()) return absl::InvalidArgumentError("there is no certificate in PEM in it");
  return found;
}

absl::Status CheckServerPair(const std::string& chain_pem, const std::string& key_pem) {
  SPILLWAY_ASSIGN_OR_RETURN(const Key key, ReadKey(key_pem));
  const Certificate leaf(PEM_read_bio_X509(BioOf(chain_pem).get(), nullptr, nullptr, nullptr));
  if (leaf == nullptr) return absl::InvalidArgumentError(LastError());
  // What gRPC will do with them: a pair that the library's security level refuses would fail every handshake.
  const Context context(SSL_CTX_new(TLS_method()));
  if (context == nullptr) return absl::InternalError(LastError());
  if (SSL_CTX_use_certificate(context.get(), leaf.get()) != 1) return absl::InvalidArgumentError(LastError());
  if (SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1 ||
      SSL_CTX_check_private_key(context.get()) != 1) {
    const bool others = X509_check_private_key(leaf.get(), key.get()) != 1;
    const std::string error = LastError();
    return absl::InvalidArgumentError(others ? "the key is not that of the certificate" : error);
  }
  return absl::OkStatus();
}

absl::Status CheckValidAt(const CertificateFacts& certificate, int64_t unix_s) {
  const auto day = [](int64_t at) {
    return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixSeconds(at), absl::UTCTimeZone());
  };
  if (unix_s < certificate.not_before_unix_s) {
    return absl::InvalidArgumentError(
        absl::StrCat("the certificate of ", certificate.subject, " is not valid before ",
                     day(certificate.not_before_unix_s), "; is the clock right?"));
  }
  if (unix_s > certificate.not_after_unix_s) {
    return absl::InvalidArgumentError(absl::StrCat("the certificate of ", certificate.subject, " expired on ",
                                                   day(certificate.not_after_unix_s), "; renew it"));
  }
  return absl::OkStatus();
}

}  // namespace spillway::server
