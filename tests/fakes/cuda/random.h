// The one source of the fake's choices: a sequence that its seed determines (splitmix64, Steele et al. 2014).
#ifndef SPILLWAY_TESTS_FAKES_CUDA_RANDOM_H_
#define SPILLWAY_TESTS_FAKES_CUDA_RANDOM_H_

#include <cstdint>

namespace spillway::fakes::cuda {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // In [0, bound). REQUIRES: bound > 0.
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(((Next() >> 32) * bound) >> 32); }

 private:
  uint64_t state_;
};

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_RANDOM_H_
