#include "engine/kv/numa_node.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace spillway::kv {

absl::Status PreferNumaNode(uint8_t* begin, int64_t size_bytes, int32_t node) {
  constexpr int32_t kBits = 8 * sizeof(unsigned long);
  std::array<unsigned long, kMaxNumaNodes / kBits> nodes{};
  if (node < 0 || node >= kMaxNumaNodes) {
    return absl::InvalidArgumentError(absl::StrCat("there is no NUMA node ", node));
  }
  nodes[static_cast<size_t>(node / kBits)] = 1UL << (node % kBits);
  // The kernel takes one bit less than it is told.
  if (syscall(SYS_mbind, begin, size_bytes, MPOL_PREFERRED, nodes.data(), kMaxNumaNodes + 1, 0) == 0) {
    return absl::OkStatus();
  }
  if (errno == EPERM || errno == ENOSYS) {
    return absl::FailedPreconditionError(
        "mbind is not allowed here; grant the container CAP_SYS_NICE, or start under numactl --preferred");
  }
  return absl::InvalidArgumentError(absl::StrCat("memory cannot be taken from NUMA node ", node, ": ",
                                                 std::strerror(errno),
                                                 "; /sys/devices/system/node/online lists the nodes"));
}

}  // namespace spillway::kv
