// Counts what operator new hands out. Linking this library replaces operator new for the whole test binary.
#ifndef SPILLWAY_TESTS_FAKES_COUNTED_ALLOCATIONS_H_
#define SPILLWAY_TESTS_FAKES_COUNTED_ALLOCATIONS_H_

#include <cstdint>

namespace spillway::fakes {

// Of this thread since the last Reset.
struct CountedAllocations {
  int64_t count = 0;
  int64_t total_bytes = 0;
  int64_t largest_bytes = 0;

  static void Reset();
  static CountedAllocations Now();
};

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_COUNTED_ALLOCATIONS_H_
