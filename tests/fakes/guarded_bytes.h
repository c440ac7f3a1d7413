// A copy of bytes that ends at an unreadable page, so that a read beyond the end crashes in every build.
#ifndef SPILLWAY_TESTS_FAKES_GUARDED_BYTES_H_
#define SPILLWAY_TESTS_FAKES_GUARDED_BYTES_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spillway::fakes {

// Borrows the bytes it copies from. Thread-compatible.
class GuardedBytes {
 public:
  explicit GuardedBytes(absl::string_view bytes);
  ~GuardedBytes();
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  // The first `size` bytes, ending at the guard; valid until the next call. REQUIRES: no more than there are.
  absl::Span<const uint8_t> Prefix(size_t size);
  absl::Span<const uint8_t> All() { return Prefix(bytes_.size()); }

 private:
  absl::string_view bytes_;
  uint8_t* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;  // without the guard page
};

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_GUARDED_BYTES_H_
