// How large the KV pool is, and whether that is enough: said before the weights are loaded where a flag gives
// it.
#ifndef SPILLWAY_SERVER_POOL_SETUP_H_
#define SPILLWAY_SERVER_POOL_SETUP_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"
#include "server/settings.h"

namespace spillway::server {

// InvalidArgument, naming the least and the most that work, where --host_pool does not hold one short
// sequence or the machine has not that much memory, or no such --numa_node. Without a size only the node is
// looked at.
absl::Status CheckPoolFlag(const Settings& settings, int32_t context_tokens, const model::ModelConfig& config,
                           const device::DeviceInfo& info);

// The node of the machine's memory that what a link carries comes from first: --numa_node, else the device's
// own, where it is known and the machine described in `root` has others; -1: wherever the kernel gives it.
int32_t HostNumaNode(const Settings& settings, const device::DeviceInfo& info, absl::string_view root = "/");

// The pool of --host_pool, else of what memory leaves. Errors name the flag. `device` must outlive it.
absl::StatusOr<std::unique_ptr<kv::HostPool>> CreatePool(const Settings& settings, int32_t context_tokens,
                                                         const model::Model& model, device::Device& device);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_POOL_SETUP_H_
