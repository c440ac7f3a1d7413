#include "server/certificates.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
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
using Connection = std::unique_ptr<SSL, FreedBy<SSL_free>>;

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

// A context that sends `sent` as gRPC does: the first as the server's own, and all others behind it.
absl::StatusOr<Context> ServerContext(const std::vector<Certificate>& sent, EVP_PKEY* key) {
  Context context(SSL_CTX_new(TLS_method()));
  if (context == nullptr) return absl::InternalError(LastError());
  if (SSL_CTX_use_certificate(context.get(), sent.front().get()) != 1) {
    return absl::InvalidArgumentError(LastError());
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key) != 1 || SSL_CTX_check_private_key(context.get()) != 1) {
    const bool others = X509_check_private_key(sent.front().get(), key) != 1;
    const std::string error = LastError();
    return absl::InvalidArgumentError(others ? "the key is not that of the certificate" : error);
  }
  for (size_t i = 1; i < sent.size(); ++i) {
    // Without a look at its strength, which is the client's to take.
    if (SSL_CTX_add_extra_chain_cert(context.get(), sent[i].get()) != 1) {
      return absl::InvalidArgumentError(LastError());
    }
    X509_up_ref(sent[i].get());  // the context has taken one
  }
  return context;
}

// Of a client that trusts the end of the path, at that time.
absl::StatusOr<Context> ClientContext(X509* trusted, int64_t unix_s) {
  Context context(SSL_CTX_new(TLS_method()));
  if (context == nullptr || X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), trusted) != 1) {
    return absl::InternalError(LastError());
  }
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  X509_VERIFY_PARAM* const how = SSL_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_flags(how, X509_V_FLAG_PARTIAL_CHAIN);
  X509_VERIFY_PARAM_set_time(how, unix_s);
  return context;
}

// The handshake that every client will make, in memory.
absl::Status ShakeHands(SSL_CTX* server_context, SSL_CTX* client_context) {
  const Connection server(SSL_new(server_context)), client(SSL_new(client_context));
  BIO* servers_end = nullptr;
  BIO* clients_end = nullptr;
  if (server == nullptr || client == nullptr || BIO_new_bio_pair(&servers_end, 0, &clients_end, 0) != 1) {
    return absl::InternalError(LastError());
  }
  SSL_set_bio(server.get(), servers_end, servers_end);
  SSL_set_bio(client.get(), clients_end, clients_end);
  SSL_set_accept_state(server.get());
  SSL_set_connect_state(client.get());
  // Each goes on as far as it can with what the other has sent.
  constexpr int kTurnsMax = 100;
  for (int turn = 0; turn < kTurnsMax; ++turn) {
    bool done = true;
    for (SSL* const side : {client.get(), server.get()}) {
      ERR_clear_error();
      const int result = SSL_do_handshake(side);
      if (result == 1) continue;
      done = false;
      const int why = SSL_get_error(side, result);
      if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) continue;
      const auto verified = SSL_get_verify_result(client.get());
      const std::string error = LastError();
      return absl::InvalidArgumentError(
          absl::StrCat("no client would take it: ",
                       verified == X509_V_OK ? error : X509_verify_cert_error_string(verified)));
    }
    if (done) return absl::OkStatus();
  }
  return absl::InvalidArgumentError("no client would take it: the handshake does not end");
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
    if (const absl::Status valid = CheckValidAt(facts, unix_s); !valid.ok()) {
      if (certificate == path.front()) return valid;
      return absl::InvalidArgumentError(
          absl::StrCat(valid.message(), ", or leave it out where clients trust what it signed without it"));
    }
    if (facts.not_after_unix_s < out.first_to_expire.not_after_unix_s) out.first_to_expire = facts;
  }
  SPILLWAY_ASSIGN_OR_RETURN(const Key key, ReadKey(key_pem));
  SPILLWAY_ASSIGN_OR_RETURN(const Context server, ServerContext(sent, key.get()));
  SPILLWAY_ASSIGN_OR_RETURN(const Context client, ClientContext(path.back(), unix_s));
  SPILLWAY_RETURN_IF_ERROR(ShakeHands(server.get(), client.get()));
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
