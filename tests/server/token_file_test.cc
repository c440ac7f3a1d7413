#include "server/token_file.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/token_table.h"

namespace spillway::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string DigestOf(const std::string& token) {
  const Sha256Digest digest = Sha256(token);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

std::string Entry(const std::string& token, const std::string& tenant, const std::string& more = "") {
  return absl::StrCat("{\"sha256\": \"", DigestOf(token), "\", \"tenant\": \"", tenant, "\"", more, "}");
}

std::string File(const std::string& tokens, const std::string& tenants = "{}") {
  return absl::StrCat("{\"schema_version\": 1, \"tenants\": ", tenants, ", \"tokens\": [", tokens, "]}");
}

std::string ErrorOf(const std::string& text) { return std::string(ParseTokenTable(text).status().message()); }

TEST(TokenTable, KnownDigestsAreWhatSha256Says) {
  EXPECT_EQ(DigestOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(TokenTable, ReadsTokensAndLimits) {
  const auto table = ParseTokenTable(
      File(absl::StrCat(Entry("a", "acme"), ",", Entry("b", "acme", ", \"role\": \"admin\""), ",",
                        Entry("c", "other", ", \"role\": \"user\"")),
           "{\"acme\": {\"max_concurrent_requests\": 8, \"tokens_per_minute\": 60000}, \"idle\": {}}"));
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->tokens.size(), 3U);
  EXPECT_FALSE(table->tokens[0].admin);
  EXPECT_TRUE(table->tokens[1].admin);
  EXPECT_FALSE(table->tokens[2].admin);
  EXPECT_EQ(table->tenants.at("acme"), (TenantLimits{8, 60000}));
  EXPECT_EQ(table->tenants.at("other"), TenantLimits()) << "need not be listed";
  EXPECT_EQ(table->tenants.size(), 3U);
}

TEST(TokenTable, SaysWhereAndWhatIsWrong) {
  EXPECT_THAT(ErrorOf("{"), HasSubstr("not JSON at byte"));
  // A parser takes the last one: limits would be gone without a word.
  EXPECT_THAT(ErrorOf(R"({"schema_version": 1, "tenants": {"a": {}}, "tokens": [], "tenants": {}})"),
              HasSubstr("\"tenants\" is there twice"));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("must be one JSON object"));
  // In half a megabyte there is room to go down further than any stack does.
  const std::string deep = absl::StrCat(std::string(250'000, '['), std::string(250'000, ']'));
  for (const std::string& text :
       {absl::StrCat("{\"schema_version\": ", deep, "}"),
        absl::StrCat("{\"schema_version\": 1, \"tenants\": ", deep, "}"),
        absl::StrCat("{\"schema_version\": 1, \"tokens\": ", deep, "}"), File(deep), deep}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("nested deeper than 32 levels")) << text.substr(0, 40);
  }
  EXPECT_THAT(ErrorOf("{}"), HasSubstr("schema_version: must be 1"));
  EXPECT_THAT(ErrorOf("{\"schema_version\": 1, \"token\": []}"), HasSubstr("unknown name \"token\""));
  EXPECT_THAT(ErrorOf(File("{\"sha256\": \"12\", \"tenant\": \"a\"}")),
              HasSubstr("tokens[0]: sha256 must be"));
  EXPECT_THAT(ErrorOf(File(Entry("a", "acme corp"))), HasSubstr("tokens[0]: tenant must be"));
  EXPECT_THAT(ErrorOf(File(Entry("a", "a", ", \"role\": \"root\""))),
              HasSubstr("role must be user or admin"));
  EXPECT_THAT(ErrorOf(File(Entry("a", "a", ", \"rôle\": \"admin\""))), HasSubstr("unknown name \"rôle\""));
  EXPECT_THAT(ErrorOf(File(Entry("a", "a", ", \"role\": 7"))), HasSubstr("role must be a text"));
  EXPECT_THAT(ErrorOf(File(absl::StrCat(Entry("a", "a"), ",", Entry("a", "b")))),
              HasSubstr("tokens[1]: the same sha256"));
  EXPECT_THAT(ErrorOf(File("7")), HasSubstr("tokens[0]: must be an object"));
  for (const char* bad : {"-1", "1.5", "\"8\"", "1e30", "true", "null"}) {
    EXPECT_THAT(ErrorOf(File("", absl::StrCat("{\"a\": {\"tokens_per_minute\": ", bad, "}}"))),
                HasSubstr("tenants.a: tokens_per_minute must be a whole number"))
        << bad;
  }
  EXPECT_THAT(ErrorOf(File("", "{\"a\": {\"rpm\": 1}}")), HasSubstr("tenants.a: unknown name \"rpm\""));
  std::string many;
  for (size_t i = 0; i <= kMaxTenants; ++i) {
    absl::StrAppend(&many, i == 0 ? "" : ",", Entry(absl::StrCat(i), absl::StrCat("t", i)));
  }
  EXPECT_THAT(ErrorOf(File(many)), HasSubstr("257 tenants, at most 256"));
}

class TokenFileTest : public testing::Test {
 protected:
  TokenFileTest() : path_(testing::TempDir() + std::to_string(getpid()) + "_tokens.json") {}
  ~TokenFileTest() override { std::remove(path_.c_str()); }

  void Write(const std::string& text) { std::ofstream(path_) << text; }
  std::unique_ptr<TokenFile> Load() {
    auto file = TokenFile::Load(path_);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }

  const std::string path_;
};

TEST_F(TokenFileTest, FindsTheHolderOfATokenAndNobodyElse) {
  std::string entries;
  for (int i = 0; i < 200; ++i) {
    absl::StrAppend(&entries, i == 0 ? "" : ",",
                    Entry(absl::StrCat("token", i), absl::StrCat("tenant", i % 50)));
  }
  Write(File(entries));
  const auto file = Load();
  for (int i = 0; i < 200; ++i) {
    const TokenFile::Holder holder = file->Find(absl::StrCat("token", i));
    ASSERT_NE(holder.tenant, nullptr) << i;
    EXPECT_EQ(holder.tenant->name(), absl::StrCat("tenant", i % 50));
    EXPECT_FALSE(holder.admin);
  }
  for (const std::string& wrong :
       {std::string(), std::string("token"), std::string("token200"), std::string("token1\0", 7),
        DigestOf("token1"), std::string(100'000, 'x')}) {
    EXPECT_EQ(file->Find(wrong).tenant, nullptr) << wrong.substr(0, 80);
  }
  EXPECT_EQ(file->Find("token7").tenant, file->Find("token57").tenant)
      << "tokens of a tenant share its limits";
}

TEST_F(TokenFileTest, WhatCannotBeReadIsRefusedAtStart) {
  EXPECT_THAT(std::string(TokenFile::Load(path_).status().message()),
              AllOf(HasSubstr("--tokens_file=" + path_), HasSubstr("No such file")));
  Write("{\"schema_version\": 1, \"tokens\": 7}");
  EXPECT_THAT(std::string(TokenFile::Load(path_).status().message()), HasSubstr("tokens: must be a list"));
}

TEST_F(TokenFileTest, AChangeIsInEffectAndSpentTokensStaySpent) {
  Write(File(Entry("a", "acme"), "{\"acme\": {\"tokens_per_minute\": 100}}"));
  const auto file = Load();
  EXPECT_TRUE(file->Find("a").tenant->Spend(100, 1).ok());
  Write(File(absl::StrCat(Entry("b", "acme", ", \"role\": \"admin\""), ",", Entry("c", "new")),
             "{\"acme\": {\"tokens_per_minute\": 100}}"));
  file->Reload();
  EXPECT_EQ(file->Find("a").tenant, nullptr) << "taken back";
  ASSERT_NE(file->Find("b").tenant, nullptr);
  EXPECT_TRUE(file->Find("b").admin);
  EXPECT_FALSE(file->Find("b").tenant->Spend(1, 1).ok());
  EXPECT_NE(file->Find("c").tenant, nullptr);
  EXPECT_EQ(file->counts().taken, 1);
}

TEST_F(TokenFileTest, ABadChangeLeavesTheTokensAndIsSaidOnce) {
  Write(File(Entry("a", "acme")));
  const auto file = Load();
  Write("{\"schema_ver");
  testing::internal::CaptureStderr();
  file->Reload();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "it may be half written";
  testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) file->Reload();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, AllOf(HasSubstr("the tokens before stay in effect"), HasSubstr("not JSON at byte")));
  EXPECT_EQ(log.find("stay in effect"), log.rfind("stay in effect"));
  EXPECT_EQ(file->counts().refused, 1);
  EXPECT_TRUE(file->counts().stale);
  EXPECT_NE(file->Find("a").tenant, nullptr);
  Write(File(Entry("a", "acme")));
  file->Reload();
  EXPECT_FALSE(file->counts().stale);
}

TEST_F(TokenFileTest, TenantsPayByName) {
  Write(File(Entry("a", "acme"), "{\"acme\": {\"tokens_per_minute\": 100}}"));
  const auto file = Load();
  file->Pay("acme", 150, 1);
  file->Pay("gone", 150, 1);
  EXPECT_FALSE(file->Find("a").tenant->Spend(1, 1).ok());
}

}  // namespace
}  // namespace spillway::server
