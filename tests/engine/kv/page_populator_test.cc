#include "engine/kv/page_populator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

class Mapping {
 public:
  explicit Mapping(int64_t size_bytes) : size_bytes_(size_bytes) {
    base_ = mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(base_, MAP_FAILED);
  }
  ~Mapping() { munmap(base_, static_cast<size_t>(size_bytes_)); }
  uint8_t* bytes() const { return static_cast<uint8_t*>(base_); }
  int64_t resident_pages() const {
    const int64_t page_bytes = sysconf(_SC_PAGESIZE);
    std::vector<unsigned char> pages(static_cast<size_t>(size_bytes_ / page_bytes));
    EXPECT_EQ(mincore(base_, static_cast<size_t>(size_bytes_), pages.data()), 0);
    return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
  }

 private:
  int64_t size_bytes_;
  void* base_;
};

constexpr int64_t kBytes = 40 * kMiB;

TEST(PagePopulator, InParallelLeavesNoPageOut) {
  const Mapping mapping(kBytes);
  EXPECT_EQ(mapping.resident_pages(), 0);
  PopulateInParallel(mapping.bytes(), kBytes);
  EXPECT_EQ(mapping.resident_pages(), kBytes / sysconf(_SC_PAGESIZE));
}

TEST(PagePopulator, InTheBackgroundKeepsWhatIsWrittenMeanwhile) {
  const Mapping mapping(kBytes);
  PagePopulator populator(mapping.bytes(), kBytes);
  for (int64_t i = kBytes - 4096; i >= 0; i -= 4096) mapping.bytes()[i] = static_cast<uint8_t>(i / 4096);
  while (!populator.done()) std::this_thread::yield();
  for (int64_t i = 0; i < kBytes; i += 4096)
    ASSERT_EQ(mapping.bytes()[i], static_cast<uint8_t>(i / 4096)) << i;
  EXPECT_EQ(mapping.resident_pages(), kBytes / sysconf(_SC_PAGESIZE));
}

TEST(PagePopulator, StopsWhenDestroyed) {
  const Mapping mapping(int64_t{4} * kGiB);
  { const PagePopulator populator(mapping.bytes(), int64_t{4} * kGiB); }
  EXPECT_LT(mapping.resident_pages(), kGiB / sysconf(_SC_PAGESIZE)) << "a quarter of 4 GiB was populated";
}

}  // namespace
}  // namespace spillway::kv
