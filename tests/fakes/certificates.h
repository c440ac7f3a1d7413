// Certificates for tests: an authority that issues what is asked for, good or bad.
#ifndef SPILLWAY_TESTS_FAKES_CERTIFICATES_H_
#define SPILLWAY_TESTS_FAKES_CERTIFICATES_H_

#include <cstdint>
#include <memory>
#include <string>

namespace spillway::fakes {

struct PemPair {
  std::string certificate;
  std::string key;
};

struct CertificateOptions {
  std::string name = "localhost";
  // From now on.
  int64_t begins_s = -3600;
  int64_t ends_s = 30 * 24 * 3600;
  std::string extended_use = {};  // "clientAuth"; empty: unlimited
  bool weak = false;              // signed over SHA-1
  std::string key = "P-256";      // a curve's name, or "RSA-1024"
};

// An elliptic-curve authority. Not thread-safe.
class TestAuthority {
 public:
  // Signs itself.
  explicit TestAuthority(const std::string& name = "test authority");
  // An intermediate one, signed by `issuer`.
  TestAuthority(const TestAuthority& issuer, const CertificateOptions& options);
  ~TestAuthority();
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  // Its certificate, PEM.
  const std::string& certificate() const { return pem_; }
  std::string key() const;
  // For servers (the name and 127.0.0.1) and clients alike.
  PemPair Issue(const CertificateOptions& options = {}) const;

 private:
  struct Parts;
  // `issuer` null: itself.
  TestAuthority(const Parts* issuer, const CertificateOptions& options);
  std::unique_ptr<Parts> parts_;
  std::string pem_;
};

// The key in `pem`, encrypted with a password.
std::string WithPassword(const std::string& key_pem);

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_CERTIFICATES_H_
