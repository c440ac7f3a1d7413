#include "engine/model/hugging_face_directory.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/model/generation_defaults.h"
#include "engine/model/implied_tensors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/model/safetensors_bytes.h"

namespace spillway::model {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// A copy of a golden directory that a test may spoil.
class Directory : public testing::Test {
 protected:
  ~Directory() override { fs::remove_all(path_); }

  void Copy(const std::string& name) {
    fs::remove_all(path_);
    fs::copy(std::string(SPILLWAY_TESTDATA "/model/") + name, path_);
  }
  std::string Read(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path_ / name, std::ios::binary).rdbuf();
    return text.str();
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  void EditJson(const std::string& name, const std::function<void(Json&)>& edit) const {
    Json json = Json::parse(Read(name));
    edit(json);
    Write(name, json.dump());
  }
  // The table of a weights file.
  void EditHeader(const std::string& name, const std::function<void(Json&)>& edit) const {
    const std::string bytes = Read(name);
    uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
    Json header = Json::parse(bytes.substr(8, length));
    edit(header);
    Write(name, SafetensorsBytes(header.dump(), bytes.substr(8 + length)));
  }
  std::string Error() const {
    const auto directory = HuggingFaceDirectory::Open(path_.string());
    EXPECT_FALSE(directory.ok());
    return std::string(directory.status().message());
  }

  const fs::path path_ = fs::path(testing::TempDir()) / absl::StrCat(getpid(), "_model_directory");
};

TEST_F(Directory, EveryImpliedTensorIsFoundUnderItsName) {
  for (const char* name : {"llama_gqa", "llama_shards", "llama_biases", "opt"}) {
    Copy(name);
    const auto directory = HuggingFaceDirectory::Open(path_.string());
    ASSERT_TRUE(directory.ok()) << directory.status();
    for (const ImpliedTensor& tensor : ImpliedTensors(directory->config())) {
      const device::TensorView* found = directory->FindTensor(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      EXPECT_EQ(found->shape, tensor.shape) << tensor.name;
    }
    EXPECT_EQ(directory->FindTensor("blk.0.attn_q"), nullptr);
    EXPECT_GT(directory->weight_bytes(), 100'000);
  }
}

TEST_F(Directory, OldNamesBuffersAndTheCopyOfATiedHeadAreKnown) {
  Copy("opt");
  EditHeader("model.safetensors", [](Json& header) {
    Json renamed;
    for (const auto& [name, entry] : header.items()) {
      renamed[absl::StrReplaceAll(name, {{"model.decoder.", "decoder."}})] = entry;
    }
    renamed["lm_head.weight"] = {{"dtype", "F16"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
    renamed["decoder.layers.0.rotary_emb.inv_freq"] = {
        {"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
    header = renamed;
  });
  const auto directory = HuggingFaceDirectory::Open(path_.string());
  EXPECT_TRUE(directory.ok()) << directory.status();
}

TEST_F(Directory, WithoutItsConfigurationItIsRefusedWithTheWayOut) {
  fs::create_directories(path_);
  EXPECT_THAT(Error(),
              AllOf(HasSubstr(path_.string()), HasSubstr("without config.json"), HasSubstr(".gguf")));
}

TEST_F(Directory, AMissingTensorIsNamed) {
  Copy("llama_gqa");
  EditJson("config.json", [](Json& config) { config["num_hidden_layers"] = 3; });
  EXPECT_THAT(Error(), AllOf(HasSubstr("blk.2.attn_norm.weight"), HasSubstr("missing")));
}

TEST_F(Directory, TensorsThatItDoesNotComputeWithAreRefusedByName) {
  Copy("llama_gqa");
  EditJson("config.json", [](Json& config) { config["num_hidden_layers"] = 1; });
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.layers.1."), HasSubstr("implies none")));
  Copy("llama_gqa");
  EditHeader("model.safetensors", [](Json& header) {
    header["model.layers.0.self_attn.q_norm.weight"] = {
        {"dtype", "F16"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
  });
  EXPECT_THAT(Error(), AllOf(HasSubstr("q_norm"), HasSubstr("serve another model")));
}

TEST_F(Directory, AnotherShapeOrDtypeIsRefusedByName) {
  Copy("llama_gqa");
  EditJson("config.json", [](Json& config) { config["intermediate_size"] = 95; });
  EXPECT_THAT(Error(), AllOf(HasSubstr("mlp."), HasSubstr("[96, 48]"), HasSubstr("config.json")));
  Copy("llama_gqa");
  EditHeader("model.safetensors", [](Json& header) { header["model.norm.weight"]["dtype"] = "I16"; });
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.norm.weight"), HasSubstr("I16"), HasSubstr("BF16")));
}

TEST_F(Directory, AnIndexLeadsNowhereElse) {
  for (const char* shard : {"../llama_gqa/model.safetensors", "/etc/passwd", "x.bin", ""}) {
    Copy("llama_shards");
    EditJson("model.safetensors.index.json",
             [&](Json& index) { index["weight_map"]["model.norm.weight"] = shard; });
    EXPECT_THAT(Error(), AllOf(HasSubstr("weight_map"), HasSubstr("model.norm.weight"))) << shard;
  }
  Copy("llama_shards");
  EditJson("model.safetensors.index.json",
           [&](Json& index) { index["weight_map"]["model.norm.weight"] = "absent.safetensors"; });
  EXPECT_THAT(Error(), HasSubstr("absent.safetensors"));
  Copy("llama_shards");
  EditJson("model.safetensors.index.json",
           [&](Json& index) { index["weight_map"]["model.norm.weight"] = 7; });
  EXPECT_THAT(Error(), HasSubstr("model.norm.weight"));
}

TEST_F(Directory, AnIndexThatContradictsItsFilesIsRefused) {
  Copy("llama_shards");
  EditJson("model.safetensors.index.json", [&](Json& index) {
    Json& map = index["weight_map"];
    map["model.norm.weight"] = map["model.norm.weight"] == "model-00001-of-00003.safetensors"
                                   ? "model-00002-of-00003.safetensors"
                                   : "model-00001-of-00003.safetensors";
  });
  EXPECT_THAT(Error(), AllOf(HasSubstr("model.norm.weight"), HasSubstr("is not in")));
  // The same tensor in two files.
  Copy("llama_shards");
  fs::copy(path_ / "model-00001-of-00003.safetensors", path_ / "copy.safetensors");
  EditJson("model.safetensors.index.json", [&](Json& index) {
    const Json map = index["weight_map"];
    for (const auto& [name, shard] : map.items()) {
      if (shard != "model-00001-of-00003.safetensors") continue;
      index["weight_map"][name] = "copy.safetensors";
      break;
    }
  });
  EXPECT_THAT(Error(), HasSubstr("twice"));
}

TEST_F(Directory, WithoutSafetensorsTheWayOutIsNamed) {
  Copy("llama_gqa");
  fs::remove(path_ / "model.safetensors");
  EXPECT_THAT(Error(), HasSubstr("model.safetensors"));
  Write("pytorch_model.bin", "PK");
  EXPECT_THAT(Error(), AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("safe_serialization")));
}

TEST_F(Directory, FingerprintFollowsContentsAndNotPlaces) {
  Copy("llama_gqa");
  const auto of = [&](int threads) {
    return ToHex(*HuggingFaceDirectory::Open(path_.string())->Fingerprint(threads));
  };
  const std::string one = of(1);
  EXPECT_EQ(of(3), one);
  EXPECT_EQ(ToHex(*HuggingFaceDirectory::Open(SPILLWAY_TESTDATA "/model/llama_gqa")->Fingerprint(1)), one);
  std::string bytes = Read("model.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  Write("model.safetensors", bytes);
  EXPECT_NE(of(1), one);
  Copy("llama_gqa");
  EditJson("config.json", [](Json& config) { config["rms_norm_eps"] = 1e-4; });
  EXPECT_NE(of(1), one);
}

TEST_F(Directory, StopIdsAndDefaultsComeFromTheGenerationConfiguration) {
  Copy("llama_gqa");
  EXPECT_EQ(*ReadStopIds(path_.string(), 272), (std::vector<text::TokenId>{2})) << "of config.json";
  EXPECT_FALSE(DefaultsFromHuggingFace(path_.string())->temperature.value.has_value());
  Write("generation_config.json",
        R"({"eos_token_id": [5, 7], "temperature": 0.5, "top_k": 20, "top_p": "x", "do_sample": true})");
  EXPECT_EQ(*ReadStopIds(path_.string(), 272), (std::vector<text::TokenId>{5, 7}));
  auto defaults = DefaultsFromHuggingFace(path_.string());
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->temperature.value, 0.5);
  EXPECT_EQ(defaults->top_k.value, 20);
  EXPECT_NE(*defaults->top_p.value, *defaults->top_p.value) << "stated, but no number";
  EXPECT_FALSE(defaults->min_p.value.has_value());
  EXPECT_THAT(std::string(ReadStopIds(path_.string(), 7).status().message()),
              AllOf(HasSubstr("generation_config.json"), HasSubstr("eos_token_id")));
  Write("generation_config.json", R"({"temperature": 0.5, "do_sample": false})");
  EXPECT_EQ(DefaultsFromHuggingFace(path_.string())->temperature.value, 0);
}

}  // namespace
}  // namespace spillway::model
