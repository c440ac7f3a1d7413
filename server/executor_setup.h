// What a device's kind decides: how cached blocks are stored in the host pool, and which executor brings them
// to attention.
#ifndef SPILLWAY_SERVER_EXECUTOR_SETUP_H_
#define SPILLWAY_SERVER_EXECUTOR_SETUP_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/exec/executor.h"
#include "engine/exec/timeline.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"
#include "server/settings.h"

namespace spillway::server {

// Tokens of a block: large enough behind a link for a copy to be worth its overhead.
int32_t BlockTokens(const device::DeviceInfo& info, const kv::Geometry& geometry);

// Sizes of this model's blocks on this device.
kv::Geometry GeometryOf(const device::DeviceInfo& info, const model::ModelConfig& config);

// A chunk of the staging ring behind a link: a block's planes at least.
int64_t RingChunkBytes(const device::DeviceInfo& info, const kv::Geometry& geometry);

// Rows of a work item behind a link at most: a decode batch, or a quarter of the rows of prefill.
int32_t LinkItemRows(const Settings& settings);

// Whether blocks may be stored as X: behind a link where X is the smaller form, the device can rebuild from
// it and --split carries any; else K and V alone.
absl::StatusOr<bool> StoresX(const Settings& settings, const device::Device& device,
                             const model::Model& model, const kv::Geometry& geometry);
// How blocks are stored in such a pool.
absl::StatusOr<kv::FormPolicy> FormPolicyOf(const Settings& settings);

// What serving takes of the device beside weights at least: scratch, staging, work items and the blocks that
// are being written. 0 without a link, where device memory is host memory and nothing is said ahead.
int64_t DeviceBytesBesideWeights(const Settings& settings, int32_t context_tokens,
                                 const device::DeviceInfo& info, const model::ModelConfig& config);

// The executor that this device needs, told of what `blocks` loses. Errors name the flag. Everything must
// outlive it. `context_tokens`: of one sequence at most.
absl::StatusOr<std::unique_ptr<exec::Executor>> CreateExecutor(const Settings& settings,
                                                               int32_t context_tokens, device::Device& device,
                                                               const model::Model& model, kv::HostPool& pool,
                                                               kv::BlockStore& blocks,
                                                               exec::Timeline& timeline);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_EXECUTOR_SETUP_H_
