// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As
// Easy as 1, 2, 3" (SC 2011): a draw is a function of a key and a counter and of nothing else, and so the
// same on every device.
#ifndef SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PHILOX_H_
#define SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PHILOX_H_

#include <cstdint>

#include "engine/device/arithmetic/portable.h"

namespace spillway::device {

struct PhiloxCounter {
  uint32_t word[4];
};

SPILLWAY_PORTABLE PhiloxCounter Philox4x32(PhiloxCounter counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter.word[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter.word[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// Uniform in [0, 1), on 53 bits.
SPILLWAY_PORTABLE double UniformDraw(uint64_t seed, uint32_t choice, int32_t position) {
  const PhiloxCounter bits = Philox4x32({{static_cast<uint32_t>(position), choice, 0, 0}},
                                        static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return static_cast<double>(((uint64_t{bits.word[0]} << 32) | bits.word[1]) >> 11) * 0x1p-53;
}

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PHILOX_H_
