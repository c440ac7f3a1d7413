// Packs float rows into GGUF encodings, for tests: the simplest quantiser of each, not the best one.
#ifndef SPILLWAY_TESTS_FAKES_ENCODE_H_
#define SPILLWAY_TESTS_FAKES_ENCODE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/device/tensor.h"

namespace spillway::fakes {

// Rounds to nearest, ties to even; overflow becomes infinity.
uint16_t FloatToHalf(float value);
uint16_t FloatToBf16(float value);

// REQUIRES: finite values, as many as make whole blocks.
std::vector<uint8_t> Encode(device::Encoding encoding, absl::Span<const float> values);

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_ENCODE_H_
