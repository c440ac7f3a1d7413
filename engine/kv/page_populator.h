// Backs a mapping with pages before they are needed, so that no step pays for a page fault.
#ifndef SPILLWAY_ENGINE_KV_PAGE_POPULATOR_H_
#define SPILLWAY_ENGINE_KV_PAGE_POPULATOR_H_

#include <atomic>
#include <cstdint>
#include <thread>

namespace spillway::kv {

// Populates [begin, begin + size_bytes) now, with every core this process may use. The kernel zeroes pages in
// the thread that touches them. Contents are lost.
void PopulateInParallel(uint8_t* begin, int64_t size_bytes);

// The same in the background and without touching contents, for memory that may be used meanwhile: a machine
// can take half a minute to hand out 10 GiB. Needs Linux 5.14; on an older kernel pages come when they are
// first used. Destruction stops it; the mapping must live until then.
class PagePopulator {
 public:
  PagePopulator(uint8_t* begin, int64_t size_bytes);
  ~PagePopulator();
  PagePopulator(const PagePopulator&) = delete;
  PagePopulator& operator=(const PagePopulator&) = delete;

  // All pages are there, or were given up.
  bool done() const { return done_.load(std::memory_order_acquire); }

 private:
  void Populate(uint8_t* begin, int64_t size_bytes);

  std::atomic<bool> stopping_{false};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_PAGE_POPULATOR_H_
