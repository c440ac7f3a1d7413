#include "engine/kv/memory_budget.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/bytes.h"
#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

class MemoryBudgetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "memory_budget.XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    Write("proc/meminfo",
          "MemTotal:       67108864 kB\nMemFree:         1000000 kB\nMemAvailable:   41943040 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  MemoryBudget Read() const { return ReadMemoryBudget(root_.string()); }

  std::filesystem::path root_;
};

TEST_F(MemoryBudgetTest, WithoutControlGroupsMemAvailableBinds) {
  const MemoryBudget budget = Read();
  EXPECT_EQ(budget.total_bytes, 64 * kGiB);
  EXPECT_EQ(budget.available_bytes, 40 * kGiB);
  EXPECT_EQ(budget.source, "MemAvailable");
}

TEST_F(MemoryBudgetTest, VersionTwoLimitBindsAndPageCacheIsNotUse) {
  Write("proc/self/cgroup", "0::/pod/server\n");
  Write("sys/fs/cgroup/pod/server/memory.max", "8589934592\n");
  Write("sys/fs/cgroup/pod/server/memory.current", "3221225472\n");
  Write("sys/fs/cgroup/pod/server/memory.stat",
        "anon 1073741824\ninactive_file 1610612736\nactive_file 536870912\nshmem 4096\n");
  const MemoryBudget budget = Read();
  EXPECT_EQ(budget.total_bytes, 8 * kGiB);
  EXPECT_EQ(budget.available_bytes, 7 * kGiB);
  EXPECT_EQ(budget.source, "cgroup v2 /pod/server");
}

TEST_F(MemoryBudgetTest, AnAncestorsTighterLimitBinds) {
  Write("proc/self/cgroup", "0::/pod/server\n");
  Write("sys/fs/cgroup/pod/server/memory.max", "max\n");
  Write("sys/fs/cgroup/pod/server/memory.current", "1073741824\n");
  Write("sys/fs/cgroup/pod/memory.max", "4294967296\n");
  Write("sys/fs/cgroup/pod/memory.current", "1073741824\n");
  const MemoryBudget budget = Read();
  EXPECT_EQ(budget.available_bytes, 3 * kGiB);
  EXPECT_EQ(budget.source, "cgroup v2 /pod");
}

TEST_F(MemoryBudgetTest, PathSeenFromOutsideOfTheContainerFallsBackToTheMountsRoot) {
  Write("proc/self/cgroup", "12:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n");
  Write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1610612736\n");
  Write("sys/fs/cgroup/memory/memory.stat", "cache 1\ntotal_inactive_file 536870912\ntotal_active_file 0\n");
  const MemoryBudget budget = Read();
  EXPECT_EQ(budget.available_bytes, 1 * kGiB);
  EXPECT_EQ(budget.source, "cgroup v1 /");
}

TEST_F(MemoryBudgetTest, UnlimitedVersionOneGroupChangesNothing) {
  Write("proc/self/cgroup", "4:memory:/\n0::/\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1610612736\n");
  EXPECT_EQ(Read().source, "MemAvailable");
  EXPECT_EQ(Read().total_bytes, 64 * kGiB);
}

TEST_F(MemoryBudgetTest, UseAboveTheLimitLeavesNothing) {
  Write("proc/self/cgroup", "0::/\n");
  Write("sys/fs/cgroup/memory.max", "1073741824\n");
  Write("sys/fs/cgroup/memory.current", "2147483648\n");
  EXPECT_EQ(Read().available_bytes, 0);
}

TEST_F(MemoryBudgetTest, WithoutMeminfoTheBudgetIsUnknown) {
  EXPECT_FALSE(ReadMemoryBudget(root_.string() + "/none").known());
}

Geometry DemoGeometry() {
  Geometry geometry;
  geometry.n_layers = 30;
  geometry.n_kv_heads = 3;
  geometry.d_head = 64;
  geometry.d = 576;
  geometry.block_tokens = 16;
  return geometry;
}

MemoryBudget BudgetOf(int64_t total_bytes, int64_t available_bytes) {
  MemoryBudget budget;
  budget.total_bytes = total_bytes;
  budget.available_bytes = available_bytes;
  return budget;
}

TEST(SuggestedPoolBytesTest, LeavesTheLargerOfFourGibibytesAndATenth) {
  constexpr int64_t kManySequences = 1 << 20;
  EXPECT_EQ(SuggestedPoolBytes(BudgetOf(32 * kGiB, 30 * kGiB), DemoGeometry(), 2048, kManySequences),
            26 * kGiB);
  EXPECT_EQ(SuggestedPoolBytes(BudgetOf(100 * kGiB, 90 * kGiB), DemoGeometry(), 2048, kManySequences),
            80 * kGiB);
}

TEST(SuggestedPoolBytesTest, IsNeverMoreThanTheSequencesCanFill) {
  const Geometry geometry = DemoGeometry();
  EXPECT_EQ(SuggestedPoolBytes(BudgetOf(100 * kGiB, 90 * kGiB), geometry, 2040, 4),
            4 * 128 * geometry.block_bytes(Form::kKv));
}

TEST(SuggestedPoolBytesTest, SmallMachineGivesAQuarter) {
  EXPECT_EQ(SuggestedPoolBytes(BudgetOf(4 * kGiB, 2 * kGiB), DemoGeometry(), 8192, 64), kGiB / 2);
}

}  // namespace
}  // namespace spillway::kv
