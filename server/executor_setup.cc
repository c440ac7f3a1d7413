#include "server/executor_setup.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "engine/exec/cache_geometry.h"
#include "engine/exec/link_executor.h"
#include "engine/exec/link_memory.h"
#include "engine/exec/row_executor.h"
#include "scheduler/prefill_queue.h"
#include "scheduler/schedule_choice.h"
#include "scheduler/work_items.h"
#include "server/planner_setup.h"

namespace spillway::server {
namespace {

// Without a link blocks need not be large, and small ones waste less of a sequence's last block.
constexpr int32_t kBlockTokensWithoutLink = 16;
constexpr int64_t kLinkBlockBytes = 256 * kKiB;
constexpr int32_t kHeadRows = 64;
// A chunk of the ring: large enough for a link to be at its best, and a small part of a small device.
constexpr int64_t kRingChunkBytesMax = 2 * kMiB;
constexpr int64_t kDeviceParts = 128;

int32_t BatchSequences(const Settings& settings) {
  return scheduler::BatchSequences(static_cast<int32_t>(settings.max_sequences),
                                   static_cast<int32_t>(settings.batch_sequences));
}

// The scheduler's, counted as if there may be columns.
std::vector<exec::ItemLimits> WorkItems(const Settings& settings, int32_t context_tokens,
                                        const kv::Geometry& geometry) {
  scheduler::SchedulerOptions options;
  options.max_sequences = static_cast<int32_t>(settings.max_sequences);
  options.batch_sequences = static_cast<int32_t>(settings.batch_sequences);
  options.prefill_rows = static_cast<int32_t>(settings.prefill_rows);
  return scheduler::WorkItemsOf(options, geometry.blocks_for(context_tokens), LinkItemRows(settings),
                                /*columns=*/true)
      .All();
}

exec::LinkExecutorOptions LinkOptions(const Settings& settings, const device::DeviceInfo& info,
                                      const kv::Geometry& geometry) {
  exec::LinkExecutorOptions options;
  options.head_rows = kHeadRows;
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
  options.reserve_bytes = exec::WorkItemBytes(
      model.config, WorkItems(settings, context_tokens, pool.geometry()), options.chunk_rows);
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
  return static_cast<int32_t>(std::max({settings.prefill_chunk_tokens, int64_t{BatchSequences(settings)},
                                        settings.prefill_rows / scheduler::PrefillQueue::kItems}));
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
  const kv::Form smallest = stores_x ? kv::Form::kX : kv::Form::kKv;
  // No more can be written than the pool holds.
  const int64_t pool_blocks =
      settings.host_pool_bytes > 0
          ? std::max<int64_t>(1, settings.host_pool_bytes / geometry.block_bytes(smallest))
          : 0;
  return exec::LinkBytes(options, config, info.compute_dtype, geometry, stores_x, pool_blocks,
                         WorkItems(settings, context_tokens, geometry));
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
