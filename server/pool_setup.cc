#include "server/pool_setup.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/numa_node.h"
#include "base/status_macros.h"
#include "engine/kv/memory_budget.h"
#include "server/executor_setup.h"

namespace spillway::server {
namespace {

// A pool that cannot hold a short question and its answer is a mistake; a larger one clamps the context.
constexpr int32_t kLeastContextTokens = 128;

// As keys and values: in that form every block can be had, whatever others there are.
absl::Status CheckPoolBytes(int64_t pool_bytes, int32_t context_tokens, const kv::Geometry& geometry) {
  const int32_t least_tokens = std::min(kLeastContextTokens, context_tokens);
  const int64_t least_blocks = std::max<int64_t>(2, geometry.blocks_for(least_tokens));
  const int64_t least_bytes = least_blocks * geometry.block_bytes(kv::Form::kKv);
  if (pool_bytes >= least_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--host_pool: a KV pool of ", FormatBytes(std::max<int64_t>(pool_bytes, 0)),
                   " does not hold one sequence of ", least_tokens, " tokens; the least that works is ",
                   least_bytes, " (", FormatBytes(least_bytes), "), and ",
                   FormatBytes(geometry.blocks_for(context_tokens) * geometry.block_bytes(kv::Form::kKv)),
                   " hold one of ", context_tokens));
}

std::string NameOfNode(const Settings& settings, int32_t node) {
  if (node < 0) return "any";
  return absl::StrCat(node, settings.numa_node < 0 ? " (the device's)" : "");
}

}  // namespace

absl::Status CheckPoolFlag(const Settings& settings, int32_t context_tokens, const model::ModelConfig& config,
                           const device::DeviceInfo& info) {
  if (settings.numa_node >= 0 &&
      access(absl::StrCat("/sys/devices/system/node/node", settings.numa_node).c_str(), F_OK) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--numa_node=", settings.numa_node,
        ": this machine has no such node; /sys/devices/system/node/online lists them, and -1 takes any"));
  }
  if (settings.host_pool_bytes == 0) return absl::OkStatus();
  const kv::MemoryBudget budget = kv::ReadMemoryBudget("/");
  if (budget.known() && settings.host_pool_bytes > budget.available_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--host_pool: a KV pool of ", FormatBytes(settings.host_pool_bytes),
        " does not fit: ", FormatBytes(budget.available_bytes), " of memory are available (", budget.source,
        "), and the weights need their part of it; without the flag the daemon "
        "takes what is left when they are loaded"));
  }
  return CheckPoolBytes(settings.host_pool_bytes, context_tokens, GeometryOf(info, config));
}

int32_t HostNumaNode(const Settings& settings, const device::DeviceInfo& info, absl::string_view root) {
  return settings.numa_node >= 0 ? static_cast<int32_t>(settings.numa_node)
                                 : NodeBesideOthers(info.numa_node, root);
}

absl::StatusOr<std::unique_ptr<kv::HostPool>> CreatePool(const Settings& settings, int32_t context_tokens,
                                                         const model::Model& model, device::Device& device) {
  const kv::Geometry geometry = GeometryOf(device.info(), model.config);
  SPILLWAY_ASSIGN_OR_RETURN(const bool stores_x, StoresX(settings, device, model, geometry));
  // More than all sequences can fill is of no use, unless prefixes are to be kept: then a flag asks for it.
  const int64_t pool_bytes = settings.host_pool_bytes > 0
                                 ? settings.host_pool_bytes
                                 : kv::SuggestedPoolBytes(kv::ReadMemoryBudget("/"), geometry, context_tokens,
                                                          settings.max_sequences);
  SPILLWAY_RETURN_IF_ERROR(CheckPoolBytes(pool_bytes, context_tokens, geometry));
  const int32_t numa_node = HostNumaNode(settings, device.info());
  Log(LogLevel::kInfo,
      settings.host_pool_bytes > 0
          ? "allocating the KV pool"
          : "allocating the KV pool: it may take most of the free memory; --host_pool=SIZE limits it",
      {{"pool", FormatBytes(pool_bytes)},
       {"block_tokens", geometry.block_tokens},
       {"numa_node", NameOfNode(settings, numa_node)}});
  absl::StatusOr<std::unique_ptr<kv::HostPool>> pool =
      kv::HostPool::Create(device, geometry, pool_bytes, stores_x, numa_node);
  if (!pool.ok()) {
    return absl::Status(pool.status().code(), absl::StrCat("--host_pool: ", pool.status().message()));
  }
  return pool;
}

}  // namespace spillway::server
