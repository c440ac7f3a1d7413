#include "engine/kv/numa_node.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::kv {
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

}  // namespace
}  // namespace spillway::kv
