#include "server/executor_setup.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "engine/exec/cache_geometry.h"
#include "engine/exec/link_executor.h"
#include "engine/exec/row_executor.h"
#include "scheduler/prefill_queue.h"
#include "scheduler/schedule_choice.h"
#include "server/planner_setup.h"

namespace spillway::server {
namespace {

// Without a link blocks need not be large, and small ones waste less of a sequence's last block.
constexpr int32_t kBlockTokensWithoutLink = 16;
constexpr int64_t kLinkBlockBytes = 256 * kKiB;
constexpr int32_t kHeadRows = 64;
constexpr int32_t kRingChunks = 6;
// A chunk of the ring: large enough for a link to be at its best, and a small part of a small device.
constexpr int64_t kRingChunkBytesMax = 2 * kMiB;
constexpr int64_t kDeviceParts = 128;

// The scheduler's work items (StepLoop::Create, PrefillQueue::Create): decode batches, one for latency where
// there may be columns, and four for prefill. Counted as if there may be.
constexpr int64_t kPrefillItems = scheduler::PrefillQueue::kItems;
constexpr int64_t kPrefillSegments = scheduler::PrefillQueue::kMostPacked;
int64_t BatchSequences(const Settings& settings) {
  return scheduler::BatchSequences(static_cast<int32_t>(settings.max_sequences),
                                   static_cast<int32_t>(settings.batch_sequences));
}
int64_t DecodeItems(const Settings& settings) {
  const int64_t each = BatchSequences(settings);
  return (settings.max_sequences + each - 1) / each + 1;
}

// What the scheduler's work items will take of device memory at most: rows, and tables of an entry a block.
int64_t WorkItemBytes(const Settings& settings, int32_t context_tokens, const model::ModelConfig& config,
                      const kv::Geometry& geometry) {
  constexpr int64_t kRowTableBytes = 64;
  constexpr int64_t kBlockTableBytes = 64;
  const int64_t decode_rows = BatchSequences(settings) * DecodeItems(settings);
  const int64_t rows = decode_rows + settings.prefill_rows;
  const int64_t sequence_blocks = geometry.blocks_for(context_tokens) + 1;
  const int64_t blocks = (decode_rows + 2 * kPrefillItems) * sequence_blocks + rows;
  return rows * (int64_t{config.d_model} * 4 + kRowTableBytes) + blocks * kBlockTableBytes + kMiB;
}

exec::LinkExecutorOptions LinkOptions(const Settings& settings, const device::DeviceInfo& info,
                                      const kv::Geometry& geometry) {
  exec::LinkExecutorOptions options;
  options.head_rows = kHeadRows;
  options.ring_chunks = kRingChunks;
  options.ring_chunk_bytes = RingChunkBytes(info, geometry);
  options.chunk_rows = LinkItemRows(settings);
  return options;
}

absl::StatusOr<std::unique_ptr<exec::Executor>> CreateLinkExecutor(
    const Settings& settings, int32_t context_tokens, device::Device& device, const model::Model& model,
    kv::HostPool& pool, kv::BlockStore& blocks, exec::Timeline& timeline) {
  exec::LinkExecutorOptions options = LinkOptions(settings, device.info(), pool.geometry());
  options.timeline = &timeline;
  options.check_blocks = settings.check_blocks;
  SPILLWAY_ASSIGN_OR_RETURN(const scheduler::PlanModes modes, ReadPlanModes(settings));
  if (modes.residency == scheduler::ResidencyMode::kOff) options.resident_blocks_max = 0;
  if (modes.residency == scheduler::ResidencyMode::kFixed) {
    options.residency.kv = modes.residency_fraction;
  }
  options.reserve_bytes = WorkItemBytes(settings, context_tokens, model.config, pool.geometry());
  absl::StatusOr<std::unique_ptr<exec::LinkExecutor>> executor =
      exec::LinkExecutor::Create(device, model.config, *model.weights, pool, blocks, options);
  if (!executor.ok()) {
    return absl::Status(executor.status().code(),
                        absl::StrCat("--device_memory: ", executor.status().message()));
  }
  Log(LogLevel::kInfo, "cached tokens reach attention over a link",
      {{"stored_as", blocks.stores_x() ? "K and V, X or both" : "K and V"},
       {"ring", FormatBytes((*executor)->ring_bytes())},
       {"device_cache", FormatBytes((*executor)->cache().size_bytes())}});
  return executor;
}

}  // namespace

int64_t RingChunkBytes(const device::DeviceInfo& info, const kv::Geometry& geometry) {
  return std::max({std::min(kRingChunkBytesMax, info.memory_bytes / kDeviceParts), 2 * geometry.slot_bytes(),
                   geometry.block_tokens * geometry.chi_bytes()});
}

int32_t LinkItemRows(const Settings& settings) {
  return static_cast<int32_t>(std::max(
      {settings.prefill_chunk_tokens, BatchSequences(settings), settings.prefill_rows / kPrefillItems}));
}

int32_t BlockTokens(const device::DeviceInfo& info, const kv::Geometry& geometry) {
  if (info.host_addressable) return kBlockTokensWithoutLink;
  // 256 KiB of the smaller form on a real link; an emulated one is a thousand times slower, and so are
  // blocks.
  const int64_t block_bytes = info.emulated_link ? kLinkBlockBytes / 8 : kLinkBlockBytes;
  const int64_t token_bytes = std::min(geometry.beta_bytes(), geometry.chi_bytes());
  const uint64_t tokens =
      static_cast<uint64_t>(std::max<int64_t>(block_bytes / std::max<int64_t>(1, token_bytes), 1));
  return static_cast<int32_t>(std::clamp<int64_t>(static_cast<int64_t>(std::bit_floor(tokens)), 16, 128));
}

kv::Geometry GeometryOf(const device::DeviceInfo& info, const model::ModelConfig& config) {
  kv::Geometry geometry = exec::CacheGeometry(config, info.compute_dtype, /*block_tokens=*/1);
  geometry.block_tokens = BlockTokens(info, geometry);  // from the bytes of one token
  return geometry;
}

absl::StatusOr<bool> StoresX(const Settings& settings, const device::Device& device,
                             const model::Model& model, const kv::Geometry& geometry) {
  if (device.info().host_addressable || geometry.chi_bytes() >= geometry.beta_bytes()) return false;
  SPILLWAY_ASSIGN_OR_RETURN(const scheduler::PlanModes modes, ReadPlanModes(settings));
  if (modes.split == exec::SplitMode::kTransfer) return false;
  const absl::Status sliced =
      device.SliceMatrix(model.weights->layers().front().qkv, model.config.d_q(), 2 * model.config.d_kv())
          .status();
  if (sliced.ok()) return true;
  Log(LogLevel::kWarning, "keys and values cannot be rebuilt on this device; they are always carried",
      {{"cause", sliced.message()}});
  return false;
}

absl::StatusOr<kv::FormPolicy> FormPolicyOf(const Settings& settings) {
  SPILLWAY_ASSIGN_OR_RETURN(const scheduler::PlanModes modes, ReadPlanModes(settings));
  kv::FormPolicy policy;
  policy.stores_x = true;
  if (modes.split == exec::SplitMode::kFixed) policy.x_share = modes.split_fraction;
  if (modes.split == exec::SplitMode::kRebuild) {
    policy.both_below = 0;
    policy.x_share = 1;
  }
  return policy;
}

int64_t DeviceBytesBesideWeights(const Settings& settings, int32_t context_tokens,
                                 const device::DeviceInfo& info, const model::ModelConfig& config) {
  if (info.host_addressable) return 0;
  const kv::Geometry geometry = GeometryOf(info, config);
  const exec::LinkExecutorOptions options = LinkOptions(settings, info, geometry);
  const bool stores_x = geometry.chi_bytes() < geometry.beta_bytes();
  const int64_t block_bytes = 2 * geometry.slot_bytes();  // of a layer
  const int64_t x_bytes = geometry.block_tokens * geometry.chi_bytes();
  const int64_t chunk_bytes = options.ring_chunk_bytes;
  const int64_t rebuilt_blocks = stores_x ? chunk_bytes / x_bytes : 0;
  const model::TransformerLimits limits{options.chunk_rows, options.head_rows,
                                        static_cast<int32_t>(rebuilt_blocks * geometry.block_tokens)};
  // Blocks that may be open at once, as LinkExecutor counts them, with its eighth to spare.
  const auto open_blocks = [&](int64_t rows, int64_t segments) {
    return rows / geometry.block_tokens + 2 * segments;
  };
  const int64_t piece_rows = std::max<int64_t>(1, settings.prefill_rows / kPrefillItems);
  const int64_t each = BatchSequences(settings);
  int64_t open =
      DecodeItems(settings) * open_blocks(each, each) +
      kPrefillItems *
          open_blocks(piece_rows, std::min({settings.max_sequences, kPrefillSegments, piece_rows}));
  open += (open + 7) / 8;
  if (settings.host_pool_bytes > 0) {
    const kv::Form smallest = stores_x ? kv::Form::kX : kv::Form::kKv;
    open = std::min(open, settings.host_pool_bytes / geometry.block_bytes(smallest));
  }
  const int64_t open_slots = 2 + (stores_x ? geometry.x_slots() : 0);
  return model::Transformer::ScratchBytes(config, info.compute_dtype, limits) +
         options.ring_chunks * chunk_bytes + rebuilt_blocks * block_bytes +
         WorkItemBytes(settings, context_tokens, config, geometry) +
         open * open_slots * geometry.slot_bytes() * geometry.n_layers + 2 * kMiB;
}

absl::StatusOr<std::unique_ptr<exec::Executor>> CreateExecutor(const Settings& settings,
                                                               int32_t context_tokens, device::Device& device,
                                                               const model::Model& model, kv::HostPool& pool,
                                                               kv::BlockStore& blocks,
                                                               exec::Timeline& timeline) {
  if (!device.info().host_addressable) {
    return CreateLinkExecutor(settings, context_tokens, device, model, pool, blocks, timeline);
  }
  exec::RowExecutorOptions options;
  options.timeline = &timeline;
  options.chunk_rows = static_cast<int32_t>(settings.prefill_chunk_tokens);
  return exec::RowExecutor::Create(device, model.config, *model.weights, pool, blocks, options);
}

}  // namespace spillway::server
