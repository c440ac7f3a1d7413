#include "profiler/machine_profile.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace spillway::profiler {
namespace {

CostCurve Linear(double per_unit_s) {
  return *FitConvex({{1, per_unit_s}, {10, 10 * per_unit_s}, {100, 100 * per_unit_s}});
}

MachineProfile Valid() {
  MachineProfile p;
  p.description = "made by hand";
  p.identity = {"m1", "a machine", "w1", "a model"};
  p.model = {"tiny", 4, 64, 4, 2, 16, 300, 2, 16, 1e5, 1e6};
  p.copy_in = {1e10, 1e-6, Linear(1e-10), Linear(1e-10), {}};
  p.copy_out = p.copy_in;
  p.copy_both_bytes_per_s = 1.8e10;
  p.rebuild = Linear(1e-7);
  p.linear = Linear(1e-6);
  p.head = Linear(1e-5);
  p.attention = Linear(1e-9);
  p.host_memory_bytes_per_s = 1e11;
  return p;
}

std::string TempPath() { return testing::TempDir() + "/profile_" + std::to_string(getpid()) + ".json"; }

TEST(MachineProfile, SurvivesTheFile) {
  const std::string path = TempPath();
  // As somebody might who can write to the folder too, and knows what the file beside it was called.
  const std::string guessed = path + "." + std::to_string(getpid()) + ".tmp", precious = path + ".precious";
  ASSERT_EQ(symlink(precious.c_str(), guessed.c_str()), 0);
  ASSERT_TRUE(SaveProfile(Valid(), path).ok());
  EXPECT_NE(access(precious.c_str(), F_OK), 0);
  const auto loaded = LoadProfile(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(ProfileToJson(*loaded), ProfileToJson(Valid()));
  for (const std::string& file : {path, guessed}) unlink(file.c_str());
}

TEST(MachineProfile, EveryFieldMustBeThereAndOfItsType) {
  const nlohmann::json good = nlohmann::json::parse(ProfileToJson(Valid()));
  int checked = 0;
  for (const auto& [key, value] : good.items()) {
    nlohmann::json missing = good;
    missing.erase(key);
    const auto without = ProfileFromJson(missing.dump());
    EXPECT_FALSE(without.ok()) << key;
    EXPECT_NE(without.status().message().find(key), absl::string_view::npos) << without.status();
    nlohmann::json mistyped = good;
    mistyped[key] = nlohmann::json::array({"x"});
    EXPECT_FALSE(ProfileFromJson(mistyped.dump()).ok()) << key;
    ++checked;
  }
  EXPECT_GT(checked, 15);
  nlohmann::json deep = good;
  deep["copy_in"]["bytes_per_s"] = "fast";
  EXPECT_EQ(ProfileFromJson(deep.dump()).status().message(),
            "profile: copy_in.bytes_per_s is of type string; it must be a number");
  deep = good;
  deep["rebuild"]["pieces"][0]["per_unit_s"] = nullptr;
  EXPECT_EQ(ProfileFromJson(deep.dump()).status().message(),
            "profile: rebuild.pieces[0].per_unit_s is of type null; it must be a number");
}

TEST(MachineProfile, WholeNumbersAreWholeAndFit) {
  for (const char* number : {"4294967328", "-4294967264", "1e300", "32.9", "true", "\"32\""}) {
    nlohmann::json json = nlohmann::json::parse(ProfileToJson(Valid()));
    json["model"]["n_layers"] = nlohmann::json::parse(number);
    EXPECT_NE(ProfileFromJson(json.dump()).status().message().find("model.n_layers"), absl::string_view::npos)
        << number;
    json = nlohmann::json::parse(ProfileToJson(Valid()));
    json["schema_version"] = nlohmann::json::parse(number);
    EXPECT_NE(ProfileFromJson(json.dump()).status().message().find("schema_version"), absl::string_view::npos)
        << number;
  }
  nlohmann::json json = nlohmann::json::parse(ProfileToJson(Valid()));
  json["schema_version"] = kProfileSchemaVersion + 0.7;
  EXPECT_FALSE(ProfileFromJson(json.dump()).ok());
}

// Deeper than any stack, longer than any message, larger than any profile.
TEST(MachineProfile, WhatItHoldsInsteadOfAFieldIsNeitherBuiltNorEchoed) {
  const std::string good = ProfileToJson(Valid());
  const auto with = [&](const std::string& source) {
    std::string text = good;
    const std::string field = "\"source\": \"measured\"";
    return text.replace(text.find(field), field.size(), "\"source\": " + source);
  };
  ASSERT_TRUE(ProfileFromJson(with("\"measured\"")).ok());
  std::string wide = "0";
  for (int i = 0; i < 100'000; ++i) wide += ",0";
  for (const std::string& source :
       {std::string(400'000, '[') + std::string(400'000, ']'),
        std::string(7'000'000, '[') + std::string(7'000'000, ']'), "[" + wide + "]",
        "\"" + std::string(500'000, 'x') + "\"", "\"" + std::string(8'000'000, 'x') + "\""}) {
    const auto refused = ProfileFromJson(with(source));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(refused.status().message().size(), 300U);
  }
}

TEST(MachineProfile, AFieldThatIsThereTwiceIsRefused) {
  std::string text = ProfileToJson(Valid());
  text.insert(1, "\"measuring_s\": 1, ");
  EXPECT_NE(ProfileFromJson(text).status().message().find("'measuring_s' is there twice"),
            absl::string_view::npos);
}

TEST(MachineProfile, IsReadFromRegularFilesOnly) {
  const std::string path = TempPath();
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(LoadProfile(path).status().code(), absl::StatusCode::kInvalidArgument) << "without waiting";
  unlink(path.c_str());
  EXPECT_EQ(LoadProfile(testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(LoadProfile(path).status().code(), absl::StatusCode::kNotFound);
}

TEST(MachineProfile, PoisonIsRefusedByName) {
  nlohmann::json json = nlohmann::json::parse(ProfileToJson(Valid()));
  json["copy_in"]["bytes_per_s"] = -1;
  EXPECT_NE(ProfileFromJson(json.dump()).status().message().find("copy_in.bytes_per_s"),
            absl::string_view::npos);
  json = nlohmann::json::parse(ProfileToJson(Valid()));
  json["rebuild"]["pieces"] = nlohmann::json::array();
  EXPECT_FALSE(ProfileFromJson(json.dump()).ok());
  json = nlohmann::json::parse(ProfileToJson(Valid()));
  json["rebuild"]["pieces"] = {{{"fixed_s", 0}, {"per_unit_s", 2}}, {{"fixed_s", 0}, {"per_unit_s", 1}}};
  EXPECT_FALSE(ProfileFromJson(json.dump()).ok()) << "not convex";
  json = nlohmann::json::parse(ProfileToJson(Valid()));
  json["schema_version"] = 999;
  EXPECT_NE(ProfileFromJson(json.dump()).status().message().find("schema_version"), absl::string_view::npos);
  for (const char* text : {"", "{", "[]", "null", "{\"schema_version\": 1e400}", "\xff"}) {
    EXPECT_FALSE(ProfileFromJson(text).ok()) << text;
  }
}

// Each alone would make every plan fail, or look free.
TEST(MachineProfile, CostsThatNoPlanCouldUseAreRefusedByName) {
  const auto refusal = [](auto&& poison) {
    MachineProfile p = Valid();
    p.prefill_attention = p.attention;
    EXPECT_TRUE(ValidateProfile(p).ok());
    poison(p);
    return std::string(ValidateProfile(p).message());
  };
  CostCurve MachineProfile::*const curves[] = {&MachineProfile::rebuild, &MachineProfile::linear,
                                               &MachineProfile::head, &MachineProfile::attention,
                                               &MachineProfile::prefill_attention};
  const char* const names[] = {"rebuild", "linear", "head", "attention", "prefill_attention"};
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(refusal([&](MachineProfile& p) {
                (p.*curves[i]).pieces = {{-1e5, 1e-6}};
              }).find(std::string("profile: the cost of 1 units by ") + names[i] + ".pieces is -100000;"),
              0U)
        << names[i];
    EXPECT_NE(refusal([&](MachineProfile& p) {
                (p.*curves[i]).pieces = {{0, 1e5}};
              }).find(std::string("units by ") + names[i] + ".pieces is 1e+1"),
              std::string::npos)
        << names[i];
  }
  EXPECT_NE(refusal([](MachineProfile& p) {
              p.copy_in.merged.pieces = {{0, 1}};
            }).find("copy_in.merged"),
            std::string::npos);
  EXPECT_EQ(refusal([](MachineProfile& p) { p.model.weight_bytes = 399'999; }),
            "profile: model.layer_weight_bytes in all layers is 400000; it must lie in [0, 399999]");
}

TEST(MachineProfile, AnotherMachineOrModelIsNamed) {
  const MachineProfile p = Valid();
  EXPECT_TRUE(CheckProfileMatches(p, p.identity).ok());
  ProfileIdentity other = p.identity;
  other.machine = "m2";
  other.machine_parts = "another machine";
  EXPECT_NE(CheckProfileMatches(p, other).message().find("another machine"), absl::string_view::npos);
  MachineProfile long_winded = p;
  long_winded.identity.machine_parts = "memory: \x1b[2J" + std::string(1'000'000, 'x');
  other.machine_parts = "memory: 16 GiB";
  const std::string said(CheckProfileMatches(long_winded, other).message());
  EXPECT_LT(said.size(), 500U);
  EXPECT_EQ(said.find('\x1b'), std::string::npos) << said;
  other = p.identity;
  other.model = "w2";
  EXPECT_NE(CheckProfileMatches(p, other).message().find("another model"), absl::string_view::npos);
}

TEST(MachineProfile, AFailedSaveLeavesTheOldFile) {
  EXPECT_FALSE(SaveProfile(Valid(), "/nonexistent/profile.json").ok());
}

}  // namespace
}  // namespace spillway::profiler
