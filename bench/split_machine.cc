#include "bench/split_machine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "bench/shaped_model.h"
#include "bench/split_batch.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "engine/device/cuda/loader.h"
#include "profiler/measure.h"

namespace spillway::bench {
namespace {

constexpr int32_t kLayers = 4;

}  // namespace

SplitModel MultiHeadModel() {
  return {"multi-head", absl::StrCat(R"({"architectures": ["OPTForCausalLM"], "model_type": "opt",
    "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16, "num_hidden_layers": )",
                                     kLayers, R"(, "vocab_size": 4096, "max_position_embeddings": 16384,
    "activation_function": "relu", "do_layer_norm_before": true, "word_embed_proj_dim": 1024,
    "enable_bias": true, "tie_word_embeddings": true, "torch_dtype": "bfloat16"})")};
}

SplitModel GroupedQueryModel() {
  return {
      "grouped-query",
      absl::StrCat(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 4,
    "num_hidden_layers": )",
                   kLayers, R"(, "vocab_size": 4096, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16"})")};
}

absl::StatusOr<std::unique_ptr<device::Device>> SplitMachine::MakeDevice() const {
  if (options_.cuda) {
    device::cuda::CudaLoadOptions gpu;
    gpu.module_path = options_.cuda_module;
    gpu.overlap_kernels = options_.overlap_kernels;
    gpu.memory_bytes = options_.device_memory_bytes;
    return device::cuda::LoadCudaDevice(gpu);
  }
  device::CpuDeviceOptions cpu;
  cpu.threads = options_.threads;
  cpu.memory_bytes = options_.device_memory_bytes;
  SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<device::Device> compute, device::CreateCpuDevice(cpu));
  device::StreamEngineOptions link;
  link.link_bytes_per_s = link_bytes_per_s();
  return device::CreateEmulatedLinkDevice(std::move(compute), link);
}

absl::Status SplitMachine::LoadModel() {
  SPILLWAY_ASSIGN_OR_RETURN(model_, LoadShapedModel(options_.model.config_json, *device_, {}));
  return absl::OkStatus();
}

std::string SplitMachine::DescribeLink() const {
  if (!options_.cuda) return absl::StrFormat("EMULATED link of %g MB/s", options_.link_mb_per_s);
  return absl::StrFormat("%s, %s: %.1f GB/s measured", device_->info().name, device_->info().link,
                         link_bytes_per_s() / 1e9);
}

absl::StatusOr<std::unique_ptr<SplitMachine>> SplitMachine::Create(const SplitMachineOptions& options) {
  auto machine = std::unique_ptr<SplitMachine>(new SplitMachine);
  machine->options_ = options;
  SPILLWAY_ASSIGN_OR_RETURN(machine->device_, machine->MakeDevice());
  SPILLWAY_RETURN_IF_ERROR(machine->LoadModel());

  const model::ModelConfig& shape = machine->model_.config;
  kv::Geometry& geometry = machine->geometry_;
  geometry.n_layers = shape.n_layers;
  geometry.n_kv_heads = shape.n_kv_heads;
  geometry.d_head = shape.d_head;
  geometry.d = shape.d_model;
  geometry.block_tokens = kSplitBlockTokens;
  geometry.element_bytes = static_cast<int32_t>(device::SizeOf(machine->device_->info().compute_dtype));

  profiler::MeasureOptions measure;
  measure.visit_rows = kPieceRowsMax;
  measure.chunk_tokens = static_cast<int32_t>(kRingChunkBytes / geometry.chi_bytes());
  measure.kv_chunk_tokens = static_cast<int32_t>(kRingChunkBytes / geometry.beta_bytes());
  measure.budget_s = options.profile_budget_s;
  SPILLWAY_ASSIGN_OR_RETURN(
      machine->profile_,
      profiler::MeasureProfile(*machine->device_, shape, *machine->model_.weights, geometry, measure));
  return machine;
}

}  // namespace spillway::bench
