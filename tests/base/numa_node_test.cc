#include "base/numa_node.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway {
namespace {

class NumaNodeTest : public ::testing::Test {
 protected:
  static constexpr int64_t kBytes = 1 << 20;

  NumaNodeTest()
      : begin_(static_cast<uint8_t*>(
            mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {}
  ~NumaNodeTest() override { munmap(begin_, kBytes); }

  uint8_t* const begin_;
};

TEST_F(NumaNodeTest, TheMappingPrefersTheNode) {
  const absl::Status preferred = PreferNumaNode(begin_, kBytes, 0);
  ASSERT_TRUE(preferred.ok()) << preferred;
  int mode = -1;
  unsigned long nodes[kMaxNumaNodes / (8 * sizeof(unsigned long))] = {};
  ASSERT_EQ(syscall(SYS_get_mempolicy, &mode, nodes, kMaxNumaNodes, begin_ + kBytes / 2, MPOL_F_ADDR), 0);
  EXPECT_EQ(mode, MPOL_PREFERRED);
  EXPECT_EQ(nodes[0], 1UL);
  begin_[0] = 1;
  int node = -1;
  ASSERT_EQ(syscall(SYS_get_mempolicy, &node, nullptr, 0, begin_, MPOL_F_NODE | MPOL_F_ADDR), 0);
  EXPECT_EQ(node, 0);
}

TEST_F(NumaNodeTest, ANodeThatIsNotThereIsRefused) {
  for (const int32_t node : {-1, 999, kMaxNumaNodes}) {
    const absl::Status refused = PreferNumaNode(begin_, kBytes, node);
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << node;
    EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr(std::to_string(node)));
  }
}

TEST(NodeBesideOthersTest, OnlyAMachineWithSeveralNodesHasOneToPrefer) {
  const std::string root = testing::TempDir() + std::to_string(getpid()) + "_numa";
  const std::string nodes = root + "/sys/devices/system/node";
  EXPECT_EQ(NodeBesideOthers(0, root), -1) << "a machine that says nothing";
  std::filesystem::create_directories(nodes + "/node0");
  std::ofstream(nodes + "/online") << "0\n";
  EXPECT_EQ(NodeBesideOthers(0, root), -1) << "all memory is its";
  std::filesystem::create_directories(nodes + "/node1");
  for (const char* online : {"0-1\n", "0,1\n"}) {
    std::ofstream(nodes + "/online") << online;
    EXPECT_EQ(NodeBesideOthers(0, root), 0);
    EXPECT_EQ(NodeBesideOthers(1, root), 1);
    EXPECT_EQ(NodeBesideOthers(2, root), -1) << "it is not there";
    EXPECT_EQ(NodeBesideOthers(-1, root), -1) << "not known";
  }
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace spillway
