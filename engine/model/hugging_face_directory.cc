#include "engine/model/hugging_face_directory.h"

#include <array>
#include <filesystem>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "engine/model/generation_defaults.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/hugging_face_config.h"
#include "engine/model/hugging_face_vocabulary.h"
#include "engine/model/implied_tensors.h"

namespace spillway::model {
namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kShardsMax = 512;
constexpr JsonLimits kIndexLimits = {.bytes_max = 16 * kMiB, .values_max = int64_t{1} << 19, .depth_max = 4};

struct Renaming {
  absl::string_view theirs;
  absl::string_view ours;
};

// Of what stands outside of the layers, behind "model." (Llama) and "model.decoder." (OPT).
constexpr std::array<Renaming, 3> kLlamaNames = {{
    {"embed_tokens.weight", "token_embd.weight"},
    {"norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
}};
constexpr std::array<Renaming, 5> kOptNames = {{
    {"embed_tokens.weight", "token_embd.weight"},
    {"embed_positions.weight", "position_embd.weight"},
    {"final_layer_norm.weight", "output_norm.weight"},
    {"final_layer_norm.bias", "output_norm.bias"},
    {"lm_head.weight", "output.weight"},
}};
// Of a layer's parts, before ".weight" and ".bias".
constexpr std::array<Renaming, 9> kLlamaParts = {{
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
}};
constexpr std::array<Renaming, 8> kOptParts = {{
    {"self_attn_layer_norm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.out_proj", "attn_output"},
    {"final_layer_norm", "ffn_norm"},
    {"fc1", "ffn_up"},
    {"fc2", "ffn_down"},
}};

std::optional<absl::string_view> Renamed(absl::Span<const Renaming> table, absl::string_view name) {
  for (const Renaming& entry : table) {
    if (entry.theirs == name) return entry.ours;
  }
  return std::nullopt;
}

// GGUF's name of a tensor, or nothing. Old checkpoints have no "model." in front.
std::optional<std::string> OurName(Family family, absl::string_view name) {
  const bool opt = family == Family::kOpt;
  absl::ConsumePrefix(&name, "model.");
  if (opt) absl::ConsumePrefix(&name, "decoder.");
  if (!absl::ConsumePrefix(&name, "layers.")) {
    const auto ours = opt ? Renamed(kOptNames, name) : Renamed(kLlamaNames, name);
    return ours ? std::optional<std::string>(*ours) : std::nullopt;
  }
  const size_t dot = name.find('.');
  const size_t last = name.rfind('.');
  int32_t layer = 0;
  if (dot == absl::string_view::npos || last == dot || !absl::SimpleAtoi(name.substr(0, dot), &layer) ||
      layer < 0 || absl::StrCat(layer) != name.substr(0, dot)) {
    return std::nullopt;
  }
  const absl::string_view suffix = name.substr(last);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  const absl::string_view part = name.substr(dot + 1, last - dot - 1);
  const auto ours = opt ? Renamed(kOptParts, part) : Renamed(kLlamaParts, part);
  if (!ours) return std::nullopt;
  return absl::StrCat("blk.", layer, ".", *ours, suffix);
}

// Buffers that Transformers recomputes, and the copy of a tied head that some files carry.
bool IsPassedOver(const ModelConfig& config, absl::string_view name) {
  return absl::EndsWith(name, "rotary_emb.inv_freq") ||
         (config.has_tied_embedding && name == "lm_head.weight");
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

bool IsModelDirectory(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

std::string HuggingFaceDirectory::FileName(absl::string_view name) const {
  return (std::filesystem::path(path_) / std::string(name)).string();
}

absl::StatusOr<HuggingFaceDirectory> HuggingFaceDirectory::Open(const std::string& path) {
  HuggingFaceDirectory directory;
  directory.path_ = path;
  SPILLWAY_ASSIGN_OR_RETURN(directory.config_, ReadHuggingFaceConfig(path));
  SPILLWAY_RETURN_IF_ERROR(directory.OpenWeights());
  SPILLWAY_RETURN_IF_ERROR(directory.IndexTensors());
  SPILLWAY_RETURN_IF_ERROR(directory.CheckTensors());
  return directory;
}

absl::Status HuggingFaceDirectory::OpenWeights() {
  std::error_code error;
  if (std::filesystem::exists(FileName(kWeights), error)) {
    SPILLWAY_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(FileName(kWeights)));
    files_.push_back(std::move(file));
    return absl::OkStatus();
  }
  if (std::filesystem::exists(FileName(kIndex), error)) return OpenShards(FileName(kIndex));
  for (const char* other : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (!std::filesystem::exists(FileName(other), error)) continue;
    return absl::UnimplementedError(
        absl::StrCat(FileName(other),
                     ": weights of this format run code when they are read, so Spillway does not; save the "
                     "model with safe_serialization=True"));
  }
  return absl::NotFoundError(
      absl::StrCat(path_, ": neither ", kWeights, " nor ", kIndex, " is there; fetch the whole model"));
}

absl::Status HuggingFaceDirectory::OpenShards(const std::string& index_path) {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json root, ReadJsonFile(index_path, kIndexLimits));
  SPILLWAY_ASSIGN_OR_RETURN(const JsonObject map, JsonObject(root, index_path).Object("weight_map"));
  std::set<std::string> names;
  for (const auto& [tensor, value] : map.json().items()) {
    const std::string shard = value.is_string() ? value.get<std::string>() : "";
    // A plain name: an index leads nowhere but into its own directory.
    if (!absl::EndsWith(shard, ".safetensors") || shard.find('/') != std::string::npos ||
        shard.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": field 'weight_map': tensor ", Quoted(tensor), ": ", Quoted(shard),
                       " is not the name of a .safetensors file in the directory; ", kDamagedFile));
    }
    names.insert(shard);
    if (names.size() > kShardsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": field 'weight_map': more than ", kShardsMax, " files; ", kDamagedFile));
    }
  }
  std::set<std::pair<std::string, std::string>> held;  // (tensor, shard)
  for (const std::string& name : names) {
    SPILLWAY_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(FileName(name)));
    for (const SafetensorsFile::Tensor& tensor : file.tensors()) held.emplace(tensor.view.name, name);
    files_.push_back(std::move(file));
  }
  for (const auto& [tensor, value] : map.json().items()) {
    if (held.contains({tensor, value.get<std::string>()})) continue;
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": field 'weight_map': tensor ",
                                                   Quoted(tensor), " is not in ",
                                                   Quoted(value.get<std::string>()), "; ", kDamagedFile));
  }
  return absl::OkStatus();
}

absl::Status HuggingFaceDirectory::IndexTensors() {
  for (const SafetensorsFile& file : files_) {
    for (const SafetensorsFile::Tensor& tensor : file.tensors()) {
      const std::string& name = tensor.view.name;
      if (IsPassedOver(config_, name)) continue;
      const std::optional<std::string> ours = OurName(config_.family, name);
      if (!ours) {
        return absl::UnimplementedError(absl::StrCat(
            file.path(), ": tensor ", Quoted(name), ": not part of architecture '", NameOf(config_.family),
            "' as Spillway knows it; leaving it out would change the results: serve another model"));
      }
      if (!index_.emplace(*ours, &tensor).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(file.path(), ": tensor ", Quoted(name), " is there twice; ", kDamagedFile));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status HuggingFaceDirectory::CheckTensors() const {
  const std::vector<ImpliedTensor> implied = ImpliedTensors(config_);
  for (const ImpliedTensor& wanted : implied) {
    const auto found = index_.find(wanted.name);
    if (found == index_.end()) {
      return absl::NotFoundError(absl::StrCat(path_, ": tensor '", wanted.name, "' (GGUF's name) of shape ",
                                              ShapeText(wanted.shape), " is missing; fetch the whole model"));
    }
    const SafetensorsFile::Tensor& tensor = *found->second;
    const std::string where = absl::StrCat(path_, ": tensor ", Quoted(tensor.view.name));
    if (tensor.view.shape != wanted.shape) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": shape ", ShapeText(tensor.view.shape),
                                                     ", wanted ", ShapeText(wanted.shape), " by ", kConfig,
                                                     "; ", kDamagedFile));
    }
    if (!tensor.is_float) {
      return absl::UnimplementedError(
          absl::StrCat(where, ": ", tensor.dtype, " is not supported; save the model in F32, F16 or BF16"));
    }
  }
  if (index_.size() == implied.size()) return absl::OkStatus();
  std::set<absl::string_view> unknown;  // ordered, so that the same files give the same message
  for (const auto& [name, tensor] : index_) unknown.insert(tensor->view.name);
  for (const ImpliedTensor& wanted : implied) unknown.erase(index_.find(wanted.name)->second->view.name);
  return absl::UnimplementedError(
      absl::StrCat(path_, ": tensor ", Quoted(*unknown.begin()), ": ", kConfig,
                   " implies none of it; leaving it out would change the results: serve another model"));
}

const device::TensorView* HuggingFaceDirectory::FindTensor(absl::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &found->second->view;
}

absl::StatusOr<text::Vocabulary> HuggingFaceDirectory::Vocabulary(std::string* why_no_text) const {
  absl::StatusOr<text::Vocabulary> vocabulary = VocabularyFromDirectory(path_, config_.vocab_size);
  if (absl::IsNotFound(vocabulary.status()) || absl::IsUnimplemented(vocabulary.status())) {
    *why_no_text = std::string(vocabulary.status().message());
    vocabulary = text::IdVocabulary(config_.vocab_size);
  }
  SPILLWAY_RETURN_IF_ERROR(vocabulary.status());
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary->stop_ids, ReadStopIds(path_, config_.vocab_size));
  return vocabulary;
}

int64_t HuggingFaceDirectory::weight_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_) bytes += static_cast<int64_t>(file.bytes().size());
  return bytes;
}

absl::StatusOr<ModelFingerprint> HuggingFaceDirectory::Fingerprint(int n_threads) const {
  std::string text = "spillway model fingerprint 1, a directory\n";
  const auto add = [&](absl::string_view what, absl::Span<const uint8_t> bytes) -> absl::Status {
    SPILLWAY_ASSIGN_OR_RETURN(const ModelFingerprint digest, FingerprintOfBytes(bytes, n_threads));
    absl::StrAppend(&text, what, " ", ToHex(digest), "\n");
    return absl::OkStatus();
  };
  for (const char* name : {kConfig, "tokenizer.json", "tokenizer_config.json"}) {
    std::error_code error;
    if (!std::filesystem::exists(FileName(name), error)) continue;
    SPILLWAY_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(FileName(name)));
    SPILLWAY_RETURN_IF_ERROR(add(name, file.bytes()));
  }
  // By their bytes' order of names, which an index gives them.
  for (const SafetensorsFile& file : files_) SPILLWAY_RETURN_IF_ERROR(add("weights", file.bytes()));
  SPILLWAY_RETURN_IF_ERROR(CheckUnchanged());
  return FingerprintOfText(text);
}

absl::Status HuggingFaceDirectory::CheckUnchanged() const {
  for (const SafetensorsFile& file : files_) SPILLWAY_RETURN_IF_ERROR(file.CheckUnchanged());
  return absl::OkStatus();
}

}  // namespace spillway::model
