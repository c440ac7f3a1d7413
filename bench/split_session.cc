#include "bench/split_session.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"

namespace spillway::bench {
namespace {

constexpr int32_t kBlockTokens = 16;
constexpr int32_t kLayers = 4;
constexpr int32_t kPrefillRows = 128;
constexpr int64_t kRingChunkBytes = 512 * kKiB;

// A file of its own for as long as it lives.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    std::string name = "/tmp/spillway-bench-XXXXXX";
    const int fd = mkstemp(name.data());
    SPILLWAY_CHECK_MSG(fd >= 0, "no temporary file can be made in /tmp");
    std::ofstream(name) << text;
    ::fclose(::fdopen(fd, "w"));
    path_ = name;
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

SplitShape MultiHeadShape() {
  return {"opt-like, multi-head",
          absl::StrCat(R"({"architectures": ["OPTForCausalLM"], "model_type": "opt",
    "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16, "num_hidden_layers": )",
                       kLayers, R"(, "vocab_size": 4096, "max_position_embeddings": 16384,
    "activation_function": "relu", "do_layer_norm_before": true, "word_embed_proj_dim": 1024,
    "enable_bias": true, "tie_word_embeddings": true, "torch_dtype": "bfloat16"})")};
}

SplitShape GroupedShape() {
  return {
      "llama-like, grouped-query",
      absl::StrCat(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 4,
    "num_hidden_layers": )",
                   kLayers, R"(, "vocab_size": 4096, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16"})")};
}

absl::StatusOr<std::unique_ptr<SplitSession>> SplitSession::Create(const SplitOptions& options) {
  auto session = std::unique_ptr<SplitSession>(new SplitSession);
  session->options_ = options;
  device::CpuDeviceOptions cpu;
  cpu.threads = options.threads;
  SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<device::Device> compute, device::CreateCpuDevice(cpu));
  device::StreamEngineOptions link;
  link.link_bytes_per_s = options.link_bytes_per_s;
  SPILLWAY_ASSIGN_OR_RETURN(session->device_, device::CreateEmulatedLinkDevice(std::move(compute), link));
  const TemporaryFile config(options.shape.config_json);
  SPILLWAY_ASSIGN_OR_RETURN(session->model_,
                            model::LoadRandomModel(config.path(), /*seed=*/1, *session->device_, {}));

  const model::ModelConfig& shape = session->model_.config;
  kv::Geometry geometry;
  geometry.n_layers = shape.n_layers;
  geometry.n_kv_heads = shape.n_kv_heads;
  geometry.d_head = shape.d_head;
  geometry.d = shape.d_model;
  geometry.block_tokens = kBlockTokens;
  geometry.element_bytes = static_cast<int32_t>(device::SizeOf(session->device_->info().compute_dtype));
  const kv::Form form = geometry.chi_bytes() < geometry.beta_bytes() ? kv::Form::kBoth : kv::Form::kKv;
  const int64_t n_blocks = geometry.blocks_for(options.max_cached_tokens) + 2 * options.max_sequences;
  SPILLWAY_ASSIGN_OR_RETURN(
      session->pool_,
      kv::HostPool::Create(*session->device_, geometry, n_blocks * geometry.block_bytes(form), form));
  session->FillPool();
  session->blocks_ = std::make_unique<kv::BlockStore>(*session->pool_);
  for (int64_t i = 0; i < session->pool_->n_blocks(); ++i) (void)session->blocks_->Allocate();

  exec::LinkExecutorOptions executor;
  executor.chunk_rows = std::max(kPrefillRows, options.max_sequences);
  executor.ring_chunk_bytes = kRingChunkBytes;
  executor.resident_blocks_max = options.resident_tokens / kBlockTokens;
  const int64_t open_blocks = kPrefillRows / kBlockTokens + 4 * options.max_sequences;
  executor.cache_bytes =
      (open_blocks * geometry.block_slots(kv::Form::kBoth) + 2 * executor.resident_blocks_max) *
      geometry.slot_bytes() * geometry.n_layers;
  SPILLWAY_ASSIGN_OR_RETURN(session->executor_,
                            exec::LinkExecutor::Create(*session->device_, shape, *session->model_.weights,
                                                       *session->pool_, executor));
  session->blocks_->SetListener(&session->executor_->block_listener());
  exec::ItemLimits limits;
  limits.max_rows = executor.chunk_rows;
  limits.max_segments = limits.max_outputs = options.max_sequences;
  limits.max_blocks = int64_t{options.max_sequences} * session->pool_->n_blocks();
  SPILLWAY_ASSIGN_OR_RETURN(session->item_, session->executor_->CreateWorkItem(limits));
  return session;
}

SplitSession::~SplitSession() {
  if (blocks_ != nullptr) blocks_->SetListener(nullptr);
}

void SplitSession::FillPool() {
  // Small values of either sign, the same in every slot; what matters is that they are numbers.
  const kv::Geometry& geometry = pool_->geometry();
  const int64_t slots = pool_->n_blocks() * geometry.block_slots(pool_->form());
  std::vector<uint8_t> slot(static_cast<size_t>(geometry.slot_bytes()));
  std::mt19937 random(1);
  for (size_t i = 0; i < slot.size(); i += static_cast<size_t>(geometry.element_bytes)) {
    const float value = static_cast<float>(static_cast<int32_t>(random() % 2001) - 1000) / 4000;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const size_t n = static_cast<size_t>(geometry.element_bytes);
    std::memcpy(slot.data() + i, reinterpret_cast<const uint8_t*>(&bits) + 4 - n, n);
  }
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    for (int64_t i = 0; i < slots; ++i) {
      std::memcpy(pool_->Slot(layer, static_cast<int32_t>(i)), slot.data(), slot.size());
    }
  }
}

std::vector<kv::BlockId> SplitSession::BlocksOf(const SplitBatch& batch, int32_t sequence) const {
  const int32_t n_full = batch.context / kBlockTokens;
  const int32_t n_shared = batch.shared / kBlockTokens;
  std::vector<kv::BlockId> blocks;
  for (int32_t i = 0; i < n_full; ++i) {
    blocks.push_back(i < n_shared ? i : n_shared + sequence * (n_full - n_shared) + i - n_shared);
  }
  // The new token's block is at the pool's end.
  blocks.push_back(static_cast<kv::BlockId>(pool_->n_blocks() - 1 - sequence));
  SPILLWAY_CHECK(n_shared + batch.sequences * (n_full - n_shared) <=
                 pool_->n_blocks() - options_.max_sequences);
  return blocks;
}

absl::StatusOr<exec::StepStats> SplitSession::Step(const SplitBatch& batch, double x_share,
                                                   exec::SplitMode mode) {
  SPILLWAY_CHECK(batch.context % kBlockTokens == 0 && batch.shared % kBlockTokens == 0);
  const text::TokenId token = 100;
  std::vector<std::vector<kv::BlockId>> tables;
  std::vector<exec::Segment> segments(static_cast<size_t>(batch.sequences));
  for (int32_t i = 0; i < batch.sequences; ++i) tables.push_back(BlocksOf(batch, i));
  for (int32_t i = 0; i < batch.sequences; ++i) {
    exec::Segment& segment = segments[static_cast<size_t>(i)];
    segment.sequence = static_cast<uint64_t>(i);
    segment.tokens = {&token, 1};
    segment.first_position = batch.context;
    segment.blocks = tables[static_cast<size_t>(i)];
    segment.output = exec::Output::kSample;
    segment.sample.top_p = segment.sample.repetition_penalty = 1;
    segment.sample.n_logprobs = -1;
    segment.sample.position = batch.context + 1;
  }
  exec::SplitPlan plan;
  plan.mode = mode;
  plan.tokens.carried_x_tokens = static_cast<int64_t>(x_share * 1e6);
  plan.tokens.carried_kv_tokens = 1'000'000 - plan.tokens.carried_x_tokens;
  executor_->Begin(*item_, exec::Phase::kDecode, segments, plan);
  while (!item_->done()) SPILLWAY_RETURN_IF_ERROR(executor_->Visit(*item_));
  SPILLWAY_ASSIGN_OR_RETURN(const exec::StepResult result, executor_->Finish(*item_));
  return result.stats;
}

absl::Status SplitSession::MakeResident(const SplitBatch& batch, int64_t n_tokens) {
  SPILLWAY_CHECK(n_tokens <= options_.resident_tokens);
  // A block is resident after it was computed: prefill the first tokens of each sequence.
  const int64_t each = n_tokens / batch.sequences / kBlockTokens * kBlockTokens;
  std::vector<text::TokenId> tokens(kPrefillRows, 100);
  for (int32_t s = 0; s < batch.sequences; ++s) {
    const std::vector<kv::BlockId> blocks = BlocksOf(batch, s);
    for (int64_t begin = 0; begin < each;) {
      const int64_t n = std::min<int64_t>(kPrefillRows, each - begin);
      exec::Segment segment;
      segment.tokens = absl::MakeConstSpan(tokens).first(static_cast<size_t>(n));
      segment.first_position = static_cast<int32_t>(begin);
      segment.blocks = blocks;
      executor_->Begin(*item_, exec::Phase::kPrefill, {&segment, 1}, {});
      while (!item_->done()) SPILLWAY_RETURN_IF_ERROR(executor_->Visit(*item_));
      SPILLWAY_RETURN_IF_ERROR(executor_->Finish(*item_).status());
      begin += n;
    }
  }
  executor_->WaitForStores();
  return absl::OkStatus();
}

}  // namespace spillway::bench
