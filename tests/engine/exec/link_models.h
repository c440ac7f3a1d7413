// The models of the link executor's tests: one whose heads are many, so that X takes half of K and V, and one
// whose groups of heads share keys, so that it takes twice as much.
#ifndef SPILLWAY_TESTS_ENGINE_EXEC_LINK_MODELS_H_
#define SPILLWAY_TESTS_ENGINE_EXEC_LINK_MODELS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace spillway::exec {

using Logits = std::vector<std::vector<float>>;

inline constexpr int32_t kVocab = 320;
inline constexpr int32_t kLayers = 3;

enum class Heads : uint8_t { kMany, kGrouped };

// A file with random weights, the same in every process; made at the first call.
const std::string& ModelPath(Heads heads);

}  // namespace spillway::exec

#endif  // SPILLWAY_TESTS_ENGINE_EXEC_LINK_MODELS_H_
