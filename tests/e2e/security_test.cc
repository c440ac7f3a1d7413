// What an operator sees of TLS: a daemon and a client as programs, files that are bad or change.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/e2e/spawned_daemon.h"
#include "tests/fakes/certificates.h"

namespace spillway::e2e {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class SecurityTest : public testing::Test {
 protected:
  SecurityTest() : base_(testing::TempDir() + std::to_string(getpid()) + "_security_") {
    Write("ca.pem", authority_.certificate());
    Write(authority_.Issue());
  }
  ~SecurityTest() override {
    for (const std::string& name : names_) std::remove(Path(name).c_str());
  }

  std::string Path(const std::string& name) const { return base_ + name; }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name)) << text;
    names_.push_back(name);
  }
  void Write(const fakes::PemPair& pair) {
    Write("certificate.pem", pair.certificate);
    Write("key.pem", pair.key);
  }
  std::vector<std::string> TlsFlags(std::vector<std::string> more = {}) {
    more.push_back("--tls_certificate=" + Path("certificate.pem"));
    more.push_back("--tls_key=" + Path("key.pem"));
    return ModelFlags(more);
  }

  // `spillway` against the daemon; its output and errors together.
  static ExitResult Client(const SpawnedDaemon& daemon, const std::string& arguments,
                           const std::string& environment = "") {
    const std::string command =
        absl::StrCat("env -u SPILLWAY_TLS_CA ", environment, " ", SPILLWAY_BIN_DIR,
                     "/spillway --server=", daemon.grpc_address(), " ", arguments, " 2>&1");
    ExitResult result;
    FILE* const pipe = popen(command.c_str(), "r");
    char buffer[4096];
    while (const size_t n = fread(buffer, 1, sizeof(buffer), pipe)) result.output.append(buffer, n);
    result.code = WEXITSTATUS(pclose(pipe));
    return result;
  }

  static bool Eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 200; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }

  fakes::TestAuthority authority_;
  const std::string base_;
  std::vector<std::string> names_;
};

TEST_F(SecurityTest, ADaemonWithTlsAnswersAClientThatTrustsIt) {
  SpawnedDaemon daemon(TlsFlags());
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  const std::string ca = "--tls_ca=" + Path("ca.pem");
  const ExitResult good = Client(daemon, ca + " complete --max_tokens=4 --ignore_eos x");
  EXPECT_EQ(good.code, 0) << good.output;
  EXPECT_EQ(Client(daemon, "models", "SPILLWAY_TLS_CA=" + Path("ca.pem")).code, 0) << "from the environment";
  const ExitResult plain = Client(daemon, "models");
  EXPECT_EQ(plain.code, 1);
  EXPECT_THAT(plain.output, HasSubstr("UNAVAILABLE"));
  fakes::TestAuthority stranger("stranger");
  Write("stranger.pem", stranger.certificate());
  const ExitResult distrusted = Client(daemon, "--tls_ca=" + Path("stranger.pem") + " models");
  EXPECT_EQ(distrusted.code, 1);
  EXPECT_THAT(distrusted.output, HasSubstr("remedy: Check that the daemon speaks TLS"));
  const ExitResult named = Client(daemon, ca + " --tls_server_name=elsewhere models");
  EXPECT_EQ(named.code, 1) << "the certificate is not elsewhere's";
  EXPECT_EQ(Client(daemon, "--tls_ca=/no/such/file models").code, 1);
  EXPECT_THAT(Client(daemon, "--tls_ca=/no/such/file models").output, HasSubstr("--tls_ca=/no/such/file"));
}

TEST_F(SecurityTest, MutualTlsWantsAClientsCertificate) {
  SpawnedDaemon daemon(TlsFlags({"--tls_client_ca=" + Path("ca.pem")}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  const fakes::PemPair alice = authority_.Issue({.name = "alice"});
  Write("alice.pem", alice.certificate);
  Write("alice.key", alice.key);
  const std::string ca = "--tls_ca=" + Path("ca.pem");
  const std::string own =
      absl::StrCat(" --tls_client_certificate=", Path("alice.pem"), " --tls_client_key=", Path("alice.key"));
  EXPECT_EQ(Client(daemon, ca + own + " models").code, 0);
  EXPECT_EQ(Client(daemon, ca + " models").code, 1);
  const ExitResult half = Client(daemon, ca + " --tls_client_key=" + Path("alice.key") + " models");
  EXPECT_THAT(half.output, HasSubstr("belong together"));
  EXPECT_THAT(
      Get(daemon.metrics_address(), "/metrics").body,
      AllOf(HasSubstr("spillway_tls_certificate_expiry_timestamp_seconds{certificate=\"server\"}"),
            HasSubstr("spillway_tls_certificate_expiry_timestamp_seconds{certificate=\"client_ca\"}")));
}

TEST_F(SecurityTest, FilesThatCannotServeAreRefusedAtStart) {
  Write(authority_.Issue({.ends_s = -60}));
  ExitResult result = RunDaemon(TlsFlags());
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, AllOf(HasSubstr("spillwayd: --tls_certificate="), HasSubstr("expired on")));
  Write("key.pem", authority_.Issue().key);
  Write("certificate.pem", authority_.Issue().certificate);
  result = RunDaemon(TlsFlags());
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, HasSubstr("the key is not that of the certificate"));
  result = RunDaemon(ModelFlags({"--tls_certificate=" + Path("certificate.pem")}));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, HasSubstr("--tls_certificate and --tls_key belong together"));
  result = RunDaemon(ModelFlags({"--tls_client_ca=" + Path("ca.pem")}));
  EXPECT_THAT(result.output, HasSubstr("--tls_client_ca needs --tls_certificate"));
}

TEST_F(SecurityTest, CertificatesAreReplacedUnderLoadWithoutALostRequest) {
  SpawnedDaemon daemon(TlsFlags());
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  std::atomic<bool> stop{false};
  std::atomic<int> answered{0};
  std::string fault;
  // A connection for each: every request is a handshake.
  std::thread load([&] {
    while (!stop) {
      const ExitResult result =
          Client(daemon, "--tls_ca=" + Path("ca.pem") + " complete --max_tokens=50 --ignore_eos x");
      if (result.code != 0) fault = result.output;
      ++answered;
    }
  });
  const auto reloads = [&](const std::string& result, int count) {
    const std::string series =
        absl::StrCat("spillway_reloads_total{files=\"tls\",result=\"", result, "\"} ", count, "\n");
    return Eventually(
        [&] { return Get(daemon.metrics_address(), "/metrics").body.find(series) != std::string::npos; });
  };
  Write(authority_.Issue());
  EXPECT_TRUE(reloads("taken", 1)) << daemon.output();
  Write("key.pem", "nothing");
  EXPECT_TRUE(reloads("refused", 1)) << daemon.output();
  EXPECT_THAT(Get(daemon.metrics_address(), "/metrics").body,
              HasSubstr("spillway_reload_stale{files=\"tls\"} 1"));
  EXPECT_THAT(daemon.output(), HasSubstr("those before stay in effect"));
  const int before = answered;
  EXPECT_TRUE(Eventually([&] { return answered > before + 2; })) << "it goes on with the old pair";
  Write(authority_.Issue());
  EXPECT_TRUE(reloads("taken", 2)) << daemon.output();
  stop = true;
  load.join();
  EXPECT_EQ(fault, "");
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait().code, 0);
}

TEST_F(SecurityTest, TokensAreMadeTakenAndTakenBackWhileADaemonServes) {
  const std::string file = Path("tokens.json");
  names_.push_back("tokens.json");
  const auto make = [&](const std::string& name, const std::string& flags) {
    const std::string command = absl::StrCat(SPILLWAY_BIN_DIR, "/spillway token --tokens_file=", file, " ",
                                             flags, " > ", Path(name), " 2> /dev/null");
    EXPECT_EQ(std::system(command.c_str()), 0);
    names_.push_back(name);
    return "--token_file=" + Path(name);
  };
  const std::string user = make("user.token", "--tenant=acme --max_concurrent_requests=8");
  const std::string admin = make("admin.token", "--tenant=operations --role=admin");
  SpawnedDaemon daemon(ModelFlags({"--tokens_file=" + file, "--log_format=json"}));
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  const ExitResult nobody = Client(daemon, "complete x");
  EXPECT_EQ(nobody.code, 1);
  EXPECT_THAT(nobody.output, AllOf(HasSubstr("UNAUTHENTICATED"), HasSubstr("remedy: Send `authorization")));
  EXPECT_EQ(Client(daemon, user + " complete --max_tokens=4 --ignore_eos x").code, 0);
  EXPECT_THAT(Client(daemon, user + " status").output, HasSubstr("PERMISSION_DENIED"));
  EXPECT_EQ(Client(daemon, admin + " status").code, 0);
  EXPECT_TRUE(Eventually([&] { return daemon.output().find("\"tenant\":\"acme\"") != std::string::npos; }));
  EXPECT_THAT(daemon.output(), Not(HasSubstr("spw_"))) << "no token in the log";
  const std::string other = make("other.token", "--tenant=other");
  EXPECT_TRUE(Eventually([&] { return Client(daemon, other + " models").code == 0; })) << daemon.output();
  std::ofstream(file) << "{\"schema_version\": 1, \"tokens\": [";
  EXPECT_TRUE(Eventually([&] {
    return Get(daemon.metrics_address(), "/metrics").body.find("spillway_reload_stale{files=\"tokens\"} 1") !=
           std::string::npos;
  }));
  EXPECT_EQ(Client(daemon, user + " models").code, 0) << "a bad file changes nothing";
  // An operator ends it; streams that run finish.
  const ExitResult refused = Client(daemon, user + " drain");
  EXPECT_THAT(refused.output, HasSubstr("PERMISSION_DENIED"));
  EXPECT_EQ(Client(daemon, admin + " drain").code, 0);
  const ExitResult end = daemon.Wait();
  EXPECT_EQ(end.code, 0) << end.output;
  EXPECT_THAT(end.output, HasSubstr("AdminService.Drain"));
}

TEST_F(SecurityTest, BadTokensFilesAreRefusedAtStart) {
  Write("tokens.json", "{\"schema_version\": 1, \"tokens\": [{\"sha256\": \"12\"}]}");
  const ExitResult result = RunDaemon(ModelFlags({"--tokens_file=" + Path("tokens.json")}));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, AllOf(HasSubstr("--tokens_file="), HasSubstr("tokens[0]: sha256 must be")));
}

TEST_F(SecurityTest, BeyondThisMachineADaemonSaysWhatIsOpen) {
  {
    SpawnedDaemon daemon(ModelFlags({"--listen=0.0.0.0:0"}));
    ASSERT_TRUE(daemon.WaitUntilListening()) << daemon.output();
    EXPECT_TRUE(Eventually([&] { return daemon.output().find("MAY USE IT") != std::string::npos; }));
    EXPECT_THAT(daemon.output(), HasSubstr("IN PLAIN TEXT"));
  }
  SpawnedDaemon daemon(ModelFlags());
  ASSERT_TRUE(daemon.WaitUntilReady()) << daemon.output();
  EXPECT_THAT(daemon.output(), Not(HasSubstr("PLAIN TEXT"))) << "loopback, the default, warns of nothing";
}

}  // namespace
}  // namespace spillway::e2e
