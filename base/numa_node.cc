#include "base/numa_node.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/small_file.h"

namespace spillway {

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

int32_t NodeBesideOthers(int32_t node, absl::string_view root) {
  const std::string nodes = absl::StrCat(root, "/sys/devices/system/node");
  const absl::StatusOr<std::string> online = ReadSmallFile(nodes + "/online");  // "0-1", "0,2", "0"
  const bool several = online.ok() && online->find_first_of("-,") != std::string::npos;
  const bool is_there = node >= 0 && access(absl::StrCat(nodes, "/node", node).c_str(), F_OK) == 0;
  return several && is_there ? node : -1;
}

}  // namespace spillway
