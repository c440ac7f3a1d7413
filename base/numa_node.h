// Which node of a machine with several memories a mapping's pages come from. A link to a device reaches the
// memory of its own node at full rate, that of others through the processors' interconnect.
#ifndef SPILLWAY_BASE_NUMA_NODE_H_
#define SPILLWAY_BASE_NUMA_NODE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spillway {

// Nodes are numbered below this (the kernel's own limit is configured lower or equal).
constexpr int32_t kMaxNumaNodes = 1024;

// Pages of [begin, begin + size_bytes) that are not there yet will come from `node` as long as it has memory,
// whichever thread touches them, then from others. `begin` is aligned to pages. InvalidArgument where the
// machine has no such node, FailedPrecondition where a container forbids the choice.
absl::Status PreferNumaNode(uint8_t* begin, int64_t size_bytes, int32_t node);

// `node`, where the machine described in `root` has it and others beside it; -1 where it has not (or a
// container does not see it), or all memory is one node's: then there is nothing to prefer.
int32_t NodeBesideOthers(int32_t node, absl::string_view root);

}  // namespace spillway

#endif  // SPILLWAY_BASE_NUMA_NODE_H_
