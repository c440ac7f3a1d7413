#include "server/tls_files.h"

#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/certificates.h"

namespace spillway::server {
namespace {

using fakes::PemPair;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kDay_s = 24 * 3600;

class TlsFilesTest : public testing::Test {
 protected:
  TlsFilesTest() {
    const std::string base = testing::TempDir() + std::to_string(getpid()) + "_tls_";
    paths_ = {base + "certificate.pem", base + "key.pem", base + "ca.pem"};
    Write(authority_.Issue());
    WriteFile(paths_.client_ca, authority_.certificate());
  }
  ~TlsFilesTest() override {
    for (const std::string& path : {paths_.certificate, paths_.key, paths_.client_ca}) {
      std::remove(path.c_str());
    }
  }

  static void WriteFile(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
  void Write(const PemPair& pair) {
    WriteFile(paths_.certificate, pair.certificate);
    WriteFile(paths_.key, pair.key);
  }
  std::unique_ptr<TlsFiles> Load() {
    auto files = TlsFiles::Load(paths_, [this] { return now_; });
    EXPECT_TRUE(files.ok()) << files.status();
    return files.ok() ? *std::move(files) : nullptr;
  }
  std::string LoadError() {
    const auto files = TlsFiles::Load(paths_, [this] { return now_; });
    return files.ok() ? "" : std::string(files.status().message());
  }

  int64_t now_ = std::time(nullptr);
  fakes::TestAuthority authority_;
  TlsPaths paths_;
};

TEST_F(TlsFilesTest, WhatCannotServeIsRefusedWithFlagFileAndCause) {
  const PemPair good = authority_.Issue();
  const PemPair other = authority_.Issue({.name = "other"});
  Write({good.certificate, other.key});
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("--tls_certificate=" + paths_.certificate),
                                 HasSubstr("--tls_key=" + paths_.key),
                                 HasSubstr("the key is not that of the certificate")));
  Write(authority_.Issue({.begins_s = -3 * kDay_s, .ends_s = -kDay_s}));
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("CN = localhost expired on "), HasSubstr("renew it")));
  Write(authority_.Issue({.begins_s = kDay_s}));
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("is not valid before "), HasSubstr("is the clock right?")));
  Write({"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", good.key});
  EXPECT_THAT(LoadError(), HasSubstr("certificate 1 cannot be read"));
  Write({"nothing", good.key});
  EXPECT_THAT(LoadError(), HasSubstr("there is no certificate in PEM in it"));
  Write({good.key, good.certificate});
  EXPECT_THAT(LoadError(), HasSubstr("there is no certificate in PEM in it")) << "exchanged";
  Write({good.certificate, "nothing"});
  EXPECT_THAT(LoadError(), HasSubstr("no private key in PEM can be read"));
  Write({good.certificate, fakes::WithPassword(good.key)});
  EXPECT_THAT(LoadError(), HasSubstr("the key has a password"));
  Write(good);
  WriteFile(paths_.client_ca, "");
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("--tls_client_ca="), HasSubstr("there is no certificate")));
  WriteFile(paths_.client_ca, authority_.certificate());
  EXPECT_EQ(LoadError(), "");
  std::remove(paths_.key.c_str());
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("--tls_key="), HasSubstr("No such file or directory")));
}

TEST_F(TlsFilesTest, WhatDoesNotBelongToTheChainIsLeftToClients) {
  const PemPair leaf = authority_.Issue();
  Write({leaf.certificate + authority_.Issue({.name = "stranger", .ends_s = -1}).certificate, leaf.key});
  EXPECT_EQ(LoadError(), "");
  Write({leaf.certificate + authority_.certificate(), leaf.key});
  EXPECT_EQ(LoadError(), "") << "the root";
  Write({authority_.certificate() + leaf.certificate, leaf.key});
  EXPECT_THAT(LoadError(), HasSubstr("not that of the certificate"));
}

TEST_F(TlsFilesTest, AnIntermediateThatClientsRefuseIsRefused) {
  const auto chain_of = [this](const fakes::CertificateOptions& intermediate,
                               const fakes::CertificateOptions& leaf = {}) {
    const fakes::TestAuthority between(authority_, intermediate);
    const PemPair pair = between.Issue(leaf);
    return PemPair{pair.certificate + between.certificate(), pair.key};
  };
  Write(chain_of({.name = "between"}));
  EXPECT_EQ(LoadError(), "");
  Write(chain_of({.name = "between", .begins_s = -3 * kDay_s, .ends_s = -kDay_s}));
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("CN = between expired on "), HasSubstr("or leave it out")));
  Write(chain_of({.name = "between", .weak = true}));
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("no client would take it: "), HasSubstr("too weak")));
  Write(chain_of({.name = "between"}, {.weak = true}));
  EXPECT_THAT(LoadError(), HasSubstr("too weak"));
  Write(chain_of({.name = "between"}, {.extended_use = "clientAuth"}));
  EXPECT_THAT(LoadError(), AllOf(HasSubstr("no client would take it: "), HasSubstr("purpose")));
  // The name is right, the signature is not: the authority's key was renewed.
  const fakes::TestAuthority before(authority_, {.name = "between"});
  const fakes::TestAuthority after(authority_, {.name = "between"});
  const PemPair pair = before.Issue();
  Write({pair.certificate + after.certificate(), pair.key});
  EXPECT_THAT(LoadError(), HasSubstr("signature failure"));
}

TEST_F(TlsFilesTest, WhatNoHandshakeTakesIsRefused) {
  Write(authority_.Issue({.key = "secp256k1"}));
  EXPECT_THAT(LoadError(), HasSubstr("no client would take it: "));
  // Whatever is in the file is sent, and looked at by clients.
  const PemPair leaf = authority_.Issue();
  const fakes::TestAuthority old(authority_, {.name = "old", .key = "RSA-1024"});
  Write({leaf.certificate + old.certificate(), leaf.key});
  EXPECT_THAT(LoadError(), HasSubstr("too small"));
  for (const char* curve : {"P-256", "P-384", "P-521"}) {
    Write(authority_.Issue({.key = curve}));
    EXPECT_EQ(LoadError(), "") << curve;
  }
  // A certificate that signs itself is its own root.
  const fakes::TestAuthority alone("localhost");
  Write({alone.certificate(), alone.key()});
  EXPECT_EQ(LoadError(), "");
}

TEST_F(TlsFilesTest, TheFirstOfTheChainToExpireIsTheOneToWatch) {
  const fakes::TestAuthority outer(authority_, {.name = "outer", .ends_s = kDay_s});
  fakes::TestAuthority inner(outer, {.name = "inner"});
  const PemPair pair = inner.Issue();
  // In any order behind the server's own.
  Write({pair.certificate + outer.certificate() + inner.certificate(), pair.key});
  testing::internal::CaptureStderr();
  const auto files = Load();
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("expires within a week"), HasSubstr("outer")));
  ASSERT_NE(files, nullptr);
  EXPECT_EQ(files->current()->chain.server.subject, "CN = localhost");
  EXPECT_EQ(files->current()->chain.first_to_expire.subject, "CN = outer");
}

TEST_F(TlsFilesTest, TheAuthorityThatExpiresFirstIsTheOneToWatch) {
  WriteFile(paths_.client_ca, authority_.certificate() + authority_.Issue({.ends_s = kDay_s}).certificate);
  const auto files = Load();
  EXPECT_NEAR(static_cast<double>(*files->current()->client_ca_expiry_s), static_cast<double>(now_ + kDay_s),
              5);
  now_ += 2 * kDay_s;
  EXPECT_EQ(LoadError(), "") << "another one still lets its clients in";
}

TEST_F(TlsFilesTest, NewFilesAreTakenAndUnchangedOnesAreNot) {
  const auto files = Load();
  const auto before = files->current();
  files->Reload();
  EXPECT_EQ(files->current(), before);
  Write(authority_.Issue({.name = "renewed"}));
  files->Reload();
  EXPECT_EQ(files->current()->chain.server.subject, "CN = renewed");
  EXPECT_GT(files->current()->generation, before->generation);
  EXPECT_EQ(files->counts().taken, 1);
  EXPECT_EQ(files->counts().refused, 0);
}

TEST_F(TlsFilesTest, APairThatIsHalfReplacedIsWaitedFor) {
  const auto files = Load();
  const PemPair renewed = authority_.Issue({.name = "renewed"});
  WriteFile(paths_.certificate, renewed.certificate);
  files->Reload();
  EXPECT_EQ(files->current()->chain.server.subject, "CN = localhost");
  EXPECT_EQ(files->counts().refused, 0) << "seen between two writes";
  EXPECT_FALSE(files->counts().stale);
  WriteFile(paths_.key, renewed.key);
  files->Reload();
  EXPECT_EQ(files->current()->chain.server.subject, "CN = renewed");
}

TEST_F(TlsFilesTest, BadOnesLeaveTheOldOnesInEffectAndAreSaidOnce) {
  const auto files = Load();
  const PemPair old{files->current()->certificate, files->current()->key};
  WriteFile(paths_.key, authority_.Issue().key);
  testing::internal::CaptureStderr();
  for (int i = 0; i < 5; ++i) files->Reload();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("the TLS files changed and cannot be used"));
  EXPECT_EQ(log.find("cannot be used"), log.rfind("cannot be used")) << log;
  EXPECT_EQ(log.find("PRIVATE"), std::string::npos);
  EXPECT_EQ(files->counts().refused, 1);
  EXPECT_TRUE(files->counts().stale);
  EXPECT_EQ(files->current()->generation, 1);
  std::remove(paths_.key.c_str());
  for (int i = 0; i < 5; ++i) files->Reload();
  EXPECT_EQ(files->counts().refused, 2) << "another error";
  Write(old);
  files->Reload();
  EXPECT_FALSE(files->counts().stale) << "what the files say is in effect again";
  EXPECT_EQ(files->counts().taken, 0);
}

TEST_F(TlsFilesTest, ExpiryIsSaidAWeekBeforeAndWhenItHappens) {
  Write(authority_.Issue({.ends_s = 10 * kDay_s}));
  const auto files = Load();
  const auto log_of_looks = [&files] {
    testing::internal::CaptureStderr();
    files->Reload();
    files->Reload();
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(log_of_looks(), "");
  now_ += 4 * kDay_s;
  const std::string soon = log_of_looks();
  EXPECT_THAT(soon, HasSubstr("expires within a week"));
  EXPECT_EQ(soon.find("expires within"), soon.rfind("expires within")) << "once";
  now_ += 7 * kDay_s;
  EXPECT_THAT(log_of_looks(), HasSubstr("has expired"));
}

}  // namespace
}  // namespace spillway::server
