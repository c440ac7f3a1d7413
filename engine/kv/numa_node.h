// Which node of a machine with several memories a mapping's pages come from. A link to a device reaches the
// memory of its own node at full rate, that of others through the processors' interconnect.
#ifndef SPILLWAY_ENGINE_KV_NUMA_NODE_H_
#define SPILLWAY_ENGINE_KV_NUMA_NODE_H_

#include <cstdint>

#include "absl/status/status.h"

namespace spillway::kv {

// Nodes are numbered below this (the kernel's own limit is configured lower or equal).
constexpr int32_t kMaxNumaNodes = 1024;

// Pages of [begin, begin + size_bytes) that are not there yet will come from `node` as long as it has memory,
// whichever thread touches them, then from others. `begin` is aligned to pages. InvalidArgument where the
// machine has no such node, FailedPrecondition where a container forbids the choice.
absl::Status PreferNumaNode(uint8_t* begin, int64_t size_bytes, int32_t node);

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_NUMA_NODE_H_
