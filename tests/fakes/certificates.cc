#include "tests/fakes/certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "base/check.h"
#include "base/freed_by.h"

namespace spillway::fakes {
namespace {

using Bio = std::unique_ptr<BIO, FreedBy<BIO_free>>;
using Certificate = std::unique_ptr<X509, FreedBy<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, FreedBy<EVP_PKEY_free>>;
using Extension = std::unique_ptr<X509_EXTENSION, FreedBy<X509_EXTENSION_free>>;

Bio NewBio() { return Bio(BIO_new(BIO_s_mem())); }

std::string TextOf(const Bio& bio) {
  char* text = nullptr;
  const auto size = BIO_get_mem_data(bio.get(), &text);
  return {text, static_cast<size_t>(size)};
}

std::string PemOf(X509* certificate) {
  const Bio bio = NewBio();
  SPILLWAY_CHECK(PEM_write_bio_X509(bio.get(), certificate) == 1);
  return TextOf(bio);
}

std::string PemOf(EVP_PKEY* key) {
  const Bio bio = NewBio();
  SPILLWAY_CHECK(PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  return TextOf(bio);
}

Key NewKey(const CertificateOptions& options) {
  return Key(options.key == "RSA-1024" ? EVP_RSA_gen(1024) : EVP_EC_gen(options.key.c_str()));
}

void AddExtension(X509* certificate, X509* issuer, int id, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, id, value));
  SPILLWAY_CHECK(extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1);
}

// Without extensions and signature.
Certificate NewCertificate(const CertificateOptions& options, EVP_PKEY* key, X509_NAME* issuer) {
  static int64_t serial = 0;
  Certificate out(X509_new());
  X509_set_version(out.get(), X509_VERSION_3);
  ASN1_INTEGER_set_int64(X509_get_serialNumber(out.get()), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(out.get()), options.begins_s);
  X509_gmtime_adj(X509_getm_notAfter(out.get()), options.ends_s);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(out.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(options.name.c_str()), -1, -1, 0);
  X509_set_issuer_name(out.get(), issuer != nullptr ? issuer : X509_get_subject_name(out.get()));
  SPILLWAY_CHECK(X509_set_pubkey(out.get(), key) == 1);
  return out;
}

void Sign(X509* certificate, EVP_PKEY* key, const CertificateOptions& options) {
  SPILLWAY_CHECK(X509_sign(certificate, key, options.weak ? EVP_sha1() : EVP_sha256()) > 0);
}

}  // namespace

struct TestAuthority::Parts {
  Key key;
  Certificate certificate;
};

TestAuthority::TestAuthority(const std::string& name)
    : TestAuthority(nullptr, {.name = name, .ends_s = int64_t{3650} * 24 * 3600}) {}

TestAuthority::TestAuthority(const TestAuthority& issuer, const CertificateOptions& options)
    : TestAuthority(issuer.parts_.get(), options) {}

TestAuthority::TestAuthority(const Parts* issuer, const CertificateOptions& options)
    : parts_(std::make_unique<Parts>()) {
  parts_->key = NewKey(options);
  parts_->certificate =
      NewCertificate(options, parts_->key.get(),
                     issuer == nullptr ? nullptr : X509_get_subject_name(issuer->certificate.get()));
  X509* const self = parts_->certificate.get();
  const Parts& signer = issuer == nullptr ? *parts_ : *issuer;
  AddExtension(self, signer.certificate.get(), NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(self, signer.certificate.get(), NID_subject_key_identifier, "hash");
  Sign(self, signer.key.get(), options);
  pem_ = PemOf(self);
}

TestAuthority::~TestAuthority() = default;

std::string TestAuthority::key() const { return PemOf(parts_->key.get()); }

PemPair TestAuthority::Issue(const CertificateOptions& options) const {
  const Key key = NewKey(options);
  X509* const issuer = parts_->certificate.get();
  const Certificate out = NewCertificate(options, key.get(), X509_get_subject_name(issuer));
  AddExtension(out.get(), issuer, NID_subject_alt_name, ("DNS:" + options.name + ",IP:127.0.0.1").c_str());
  if (!options.extended_use.empty()) {
    AddExtension(out.get(), issuer, NID_ext_key_usage, options.extended_use.c_str());
  }
  Sign(out.get(), parts_->key.get(), options);
  return {PemOf(out.get()), PemOf(key.get())};
}

std::string WithPassword(const std::string& key_pem) {
  const Bio in(BIO_new_mem_buf(key_pem.data(), static_cast<int>(key_pem.size())));
  const Key key(PEM_read_bio_PrivateKey(in.get(), nullptr, nullptr, nullptr));
  const Bio out = NewBio();
  SPILLWAY_CHECK(PEM_write_bio_PKCS8PrivateKey(out.get(), key.get(), EVP_aes_256_cbc(), "secret", 6, nullptr,
                                               nullptr) == 1);
  return TextOf(out);
}

}  // namespace spillway::fakes
