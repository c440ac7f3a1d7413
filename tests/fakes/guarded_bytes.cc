#include "tests/fakes/guarded_bytes.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/check.h"

namespace spillway::fakes {

GuardedBytes::GuardedBytes(absl::string_view bytes) : bytes_(bytes) {
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  mapping_bytes_ = (bytes.size() + page_bytes - 1) / page_bytes * page_bytes;
  void* address =
      mmap(nullptr, mapping_bytes_ + page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SPILLWAY_CHECK(address != MAP_FAILED);
  mapping_ = static_cast<uint8_t*>(address);
  SPILLWAY_CHECK(mprotect(mapping_ + mapping_bytes_, page_bytes, PROT_NONE) == 0);
}

GuardedBytes::~GuardedBytes() {
  munmap(mapping_, mapping_bytes_ + static_cast<size_t>(sysconf(_SC_PAGESIZE)));
}

absl::Span<const uint8_t> GuardedBytes::Prefix(size_t size) {
  SPILLWAY_CHECK(size <= bytes_.size());
  uint8_t* start = mapping_ + mapping_bytes_ - size;
  if (size > 0) std::memcpy(start, bytes_.data(), size);
  return {start, size};
}

}  // namespace spillway::fakes
