// What commands do about TLS and tokens, and the command that makes a token.
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/sha256.h"
#include "client/connection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/client/spillway_fixture.h"

namespace spillway::client {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(SpillwayTest, TlsAndTokensComeFromTheEnvironmentToo) {
  ASSERT_EQ(setenv("SPILLWAY_TLS", "false", 1), 0);
  EXPECT_FALSE(DefaultConnectionOptions().tls);
  for (const char* on : {"1", "true", "TRUE", "yes", "nonsense"}) {
    ASSERT_EQ(setenv("SPILLWAY_TLS", on, 1), 0);
    EXPECT_TRUE(DefaultConnectionOptions().tls) << "better no connection than a plain one";
  }
  EXPECT_EQ(Run({"models"}).exit_code, kExitFailed) << "the daemon speaks plain text";
  EXPECT_EQ(Run({"--notls", "models"}).exit_code, kExitOk);
  unsetenv("SPILLWAY_TLS");
  ASSERT_EQ(setenv("SPILLWAY_TLS_CA", "/no/such/file", 1), 0);
  EXPECT_THAT(Run({"models"}).err, HasSubstr("--tls_ca=/no/such/file: cannot be read"));
  unsetenv("SPILLWAY_TLS_CA");
}

TEST_F(SpillwayTest, ATokenGoesWithEveryCallAndNeverInPlainTextToAnotherMachine) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_token";
  std::ofstream(path) << "spw_abc\n";
  EXPECT_EQ(Run({"--token_file=" + path, "models"}).exit_code, kExitOk);
  EXPECT_EQ(daemon_.authorizations().back(), "Bearer spw_abc");
  EXPECT_EQ(Run({"--token_file=" + path, "complete", "x"}).exit_code, kExitOk);
  EXPECT_EQ(daemon_.authorizations().back(), "Bearer spw_abc");
  ASSERT_EQ(setenv("SPILLWAY_TOKEN", "spw_env", 1), 0);
  EXPECT_EQ(Run({"status"}).exit_code, kExitOk);
  EXPECT_EQ(daemon_.authorizations().back(), "Bearer spw_env");
  const Result elsewhere = Run({"models", "--server=192.0.2.1:1"});
  EXPECT_EQ(elsewhere.exit_code, kExitFailed);
  EXPECT_THAT(elsewhere.err, HasSubstr("the token would go to 192.0.2.1:1 in plain text"));
  for (const std::string server : {"127.0.0.1.example.invalid:1", "localhost.example.invalid:1", "127.1:1"}) {
    EXPECT_THAT(Run({"models", "--server=" + server}).err, HasSubstr("in plain text")) << server;
  }
  EXPECT_THAT(elsewhere.err, Not(HasSubstr("spw_env")));
  unsetenv("SPILLWAY_TOKEN");
  EXPECT_EQ(Run({"models"}).exit_code, kExitOk);
  EXPECT_EQ(daemon_.authorizations().back(), "");
  std::ofstream(path) << "two words";
  EXPECT_THAT(Run({"--token_file=" + path, "models"}).err, HasSubstr("printable"));
  std::ofstream(path) << "\n";
  EXPECT_THAT(Run({"--token_file=" + path, "models"}).err, HasSubstr("is empty"));
  std::remove(path.c_str());
}

// What is kept of a token, as the daemon looks for it.
std::string HexDigest(std::string token) {
  if (!token.empty() && token.back() == '\n') token.pop_back();
  const Sha256Digest digest = Sha256(token);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

TEST_F(SpillwayTest, TokenAddsTheDigestToAFileThatItsOwnerAloneReads) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_tokens.json";
  const Result first = Run({"token", "--tenant=acme", "--tokens_per_minute=600", "--tokens_file=" + path});
  ASSERT_EQ(first.exit_code, kExitOk) << first.err;
  EXPECT_THAT(first.out, ContainsRegex("^spw_[A-Za-z0-9_-]{43}\n$"));
  const Result second =
      Run({"token", "--tenant=ops", "--role=admin", "--max_concurrent_requests=2", "--tokens_file", path});
  ASSERT_EQ(second.exit_code, kExitOk) << second.err;
  EXPECT_NE(first.out, second.out);
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  EXPECT_EQ(json["schema_version"], 1);
  EXPECT_EQ(json["tokens"][0], (nlohmann::json{{"sha256", HexDigest(first.out)}, {"tenant", "acme"}}));
  EXPECT_EQ(json["tokens"][1],
            (nlohmann::json{{"sha256", HexDigest(second.out)}, {"tenant", "ops"}, {"role", "admin"}}));
  EXPECT_EQ(json["tenants"], (nlohmann::json{{"acme", {{"tokens_per_minute", 600}}},
                                             {"ops", {{"max_concurrent_requests", 2}}}}));
  EXPECT_EQ(json.dump().find("spw_"), std::string::npos) << "the token itself is nowhere";
  struct stat about {};
  ASSERT_EQ(stat(path.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0600U);
  std::remove(path.c_str());
}

TEST_F(SpillwayTest, TokensAddedAtOnceAreAllThere) {
  const std::string folder = testing::TempDir() + std::to_string(getpid()) + "_tokens_at_once";
  ASSERT_EQ(mkdir(folder.c_str(), 0700), 0);
  const std::string path = folder + "/tokens.json";
  std::vector<std::thread> threads;
  std::atomic<int> added{0};
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      added += Run({"token", "--tenant=acme", "--tokens_file=" + path}).exit_code == kExitOk ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(added, 16);
  std::ifstream file(path);
  EXPECT_EQ(nlohmann::json::parse(file)["tokens"].size(), 16U);
  std::remove(path.c_str());
  EXPECT_EQ(rmdir(folder.c_str()), 0) << "nothing else is left there";
}

TEST_F(SpillwayTest, TokenRefusesAFileThatTheDaemonWould) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_refused.json";
  const std::string deep = std::string(250'000, '[') + std::string(250'000, ']');
  for (const auto& [text, why] :
       {std::pair("{\"schema_version\": " + deep + "}", "deeper than 32 levels"),
        std::pair("{\"schema_version\": 1, \"tenants\": {\"a\": " + deep + "}}", "deeper than 32 levels"),
        std::pair(std::string(R"({"schema_version": 1, "tokens": [], "tokens": []})"), "is there twice")}) {
    std::ofstream(path) << text;
    const Result result = Run({"token", "--tenant=acme", "--tokens_file=" + path});
    EXPECT_NE(result.exit_code, kExitOk) << why;
    EXPECT_THAT(result.err, HasSubstr(why));
  }
  std::remove(path.c_str());
}

TEST_F(SpillwayTest, TokenLeavesTheFileToItsOwnerAndALinkALink) {
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_owned.json";
  const std::string link = path + ".link";
  std::ofstream(path) << "{\"schema_version\": 1}";
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  const bool is_root = geteuid() == 0;
  if (is_root) {
    ASSERT_EQ(chown(path.c_str(), 65534, 65534), 0);
  }
  ASSERT_EQ(symlink(std::filesystem::absolute(path).c_str(), link.c_str()), 0);
  const Result result = Run({"token", "--tenant=acme", "--tokens_file=" + link});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  struct stat about {};
  ASSERT_EQ(lstat(link.c_str(), &about), 0);
  EXPECT_TRUE(S_ISLNK(about.st_mode));
  ASSERT_EQ(stat(path.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0640U);
  EXPECT_EQ(about.st_uid, is_root ? 65534U : geteuid());
  std::ifstream file(path);
  EXPECT_EQ(nlohmann::json::parse(file)["tokens"].size(), 1U);
  std::remove(link.c_str());
  std::remove(path.c_str());
}

TEST_F(SpillwayTest, TokenRefusesWhatTheDaemonWould) {
  EXPECT_EQ(Run({"token"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"token", "--tenant=a b"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"token", "--tenant=" + std::string(65, 'a')}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"token", "--tenant=a", "--role=root"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"token", "--tenant=a", "--tokens_per_minute=-1"}).exit_code, kExitUsage);
  EXPECT_EQ(Run({"token", "--tenant=a", "--tokens_per_minute=9000000000000000000"}).exit_code, kExitUsage);
  const std::string path = testing::TempDir() + std::to_string(getpid()) + "_other.json";
  std::ofstream(path) << "{\"model\": \"m\"}";
  const Result other = Run({"token", "--tenant=a", "--tokens_file=" + path});
  EXPECT_EQ(other.exit_code, kExitFailed);
  EXPECT_EQ(other.out, "");
  EXPECT_THAT(other.err, HasSubstr("is not a tokens file"));
  std::remove(path.c_str());
  EXPECT_THAT(Run({"token", "--tenant=a", "--tokens_file=/no/such/folder/tokens.json"}).err,
              HasSubstr("its folder cannot be opened"));
}

TEST_F(SpillwayTest, TokenWithoutAFileSaysWhatToAdd) {
  const Result result = Run({"token", "--tenant=acme"});
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_THAT(result.err, HasSubstr(HexDigest(result.out)));
}

}  // namespace
}  // namespace spillway::client
