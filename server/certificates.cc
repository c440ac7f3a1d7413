#include "server/certificates.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <utility>

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
using Trust = std::unique_ptr<X509_STORE, FreedBy<X509_STORE_free>>;
using Verification = std::unique_ptr<X509_STORE_CTX, FreedBy<X509_STORE_CTX_free>>;

// Whose certificates belong to somebody else.
void FreeStack(STACK_OF(X509) * stack) { sk_X509_free(stack); }
using Stack = std::unique_ptr<STACK_OF(X509), FreedBy<FreeStack>>;

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

CertificateFacts FactsOf(X509* certificate) {
  return {SubjectOf(certificate), UnixSeconds(X509_get0_notBefore(certificate)),
          UnixSeconds(X509_get0_notAfter(certificate))};
}

// Every certificate of a PEM text: at least one.
absl::StatusOr<std::vector<Certificate>> Parse(const std::string& pem) {
  std::vector<Certificate> found;
  const Bio bio = BioOf(pem);
  while (true) {
    Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (certificate == nullptr) break;
    found.push_back(std::move(certificate));
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

bool SignsItself(X509* certificate) { return X509_self_signed(certificate, /*verify_signature=*/0) == 1; }

// The first certificate, who issued it, and so on, as far as those that are sent lead. A root ends it and is
// not of it, but by itself: clients look at their own copy.
std::vector<X509*> PathOf(const std::vector<Certificate>& sent) {
  std::vector<X509*> path = {sent.front().get()};
  while (path.size() < sent.size() && !SignsItself(path.back())) {
    const auto issuer = std::find_if(sent.begin(), sent.end(), [&](const Certificate& candidate) {
      return std::find(path.begin(), path.end(), candidate.get()) == path.end() &&
             X509_check_issued(candidate.get(), path.back()) == X509_V_OK;
    });
    if (issuer == sent.end() || SignsItself(issuer->get())) break;
    path.push_back(issuer->get());
  }
  return path;
}

// What the TLS library refuses to send would fail every handshake: what its level of security finds weak, and
// a pair that is none.
absl::Status CheckUsable(const std::vector<X509*>& path, EVP_PKEY* key) {
  const Context context(SSL_CTX_new(TLS_method()));
  if (context == nullptr) return absl::InternalError(LastError());
  if (SSL_CTX_use_certificate(context.get(), path.front()) != 1) {
    return absl::InvalidArgumentError(LastError());
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key) != 1 || SSL_CTX_check_private_key(context.get()) != 1) {
    const bool others = X509_check_private_key(path.front(), key) != 1;
    const std::string error = LastError();
    return absl::InvalidArgumentError(others ? "the key is not that of the certificate" : error);
  }
  for (size_t i = 1; i < path.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context.get(), path[i]) == 1) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the certificate of ", SubjectOf(path[i]), ", of its chain: ", LastError()));
  }
  return absl::OkStatus();
}

// As a client does it that trusts the end of the path: signatures, and what each certificate may be used for.
absl::Status CheckAsClient(const std::vector<X509*>& path, int64_t unix_s) {
  const Trust trust(X509_STORE_new());
  const Verification verification(X509_STORE_CTX_new());
  const Stack others(sk_X509_new_null());
  if (trust == nullptr || verification == nullptr || others == nullptr ||
      X509_STORE_add_cert(trust.get(), path.back()) != 1) {
    return absl::InternalError(LastError());
  }
  for (X509* const certificate : path) sk_X509_push(others.get(), certificate);
  if (X509_STORE_CTX_init(verification.get(), trust.get(), path.front(), others.get()) != 1) {
    return absl::InternalError(LastError());
  }
  X509_VERIFY_PARAM* const how = X509_STORE_CTX_get0_param(verification.get());
  X509_VERIFY_PARAM_set_flags(how, X509_V_FLAG_PARTIAL_CHAIN);
  X509_VERIFY_PARAM_set_purpose(how, X509_PURPOSE_SSL_SERVER);
  X509_VERIFY_PARAM_set_time(how, unix_s);
  if (X509_verify_cert(verification.get()) == 1) return absl::OkStatus();
  const int error = X509_STORE_CTX_get_error(verification.get());
  X509* const where = X509_STORE_CTX_get_current_cert(verification.get());
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat("clients refuse the certificate of ",
                                                 SubjectOf(where == nullptr ? path.front() : where), ": ",
                                                 X509_verify_cert_error_string(error)));
}

}  // namespace

absl::StatusOr<std::vector<CertificateFacts>> ReadCertificates(const std::string& pem) {
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<Certificate> read, Parse(pem));
  std::vector<CertificateFacts> found;
  found.reserve(read.size());
  for (const Certificate& certificate : read) found.push_back(FactsOf(certificate.get()));
  return found;
}

absl::StatusOr<ServerChain> CheckServerChain(const std::string& chain_pem, const std::string& key_pem,
                                             int64_t unix_s) {
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<Certificate> sent, Parse(chain_pem));
  const std::vector<X509*> path = PathOf(sent);
  ServerChain out{FactsOf(path.front()), {}};
  out.first_to_expire = out.server;
  for (X509* const certificate : path) {
    const CertificateFacts facts = FactsOf(certificate);
    SPILLWAY_RETURN_IF_ERROR(CheckValidAt(facts, unix_s));
    if (facts.not_after_unix_s < out.first_to_expire.not_after_unix_s) out.first_to_expire = facts;
  }
  SPILLWAY_ASSIGN_OR_RETURN(const Key key, ReadKey(key_pem));
  SPILLWAY_RETURN_IF_ERROR(CheckUsable(path, key.get()));
  SPILLWAY_RETURN_IF_ERROR(CheckAsClient(path, unix_s));
  return out;
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
