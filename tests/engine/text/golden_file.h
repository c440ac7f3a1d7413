// The committed goldens: JSON, zlib-compressed, made by tests/golden/make_*_goldens.py.
#ifndef SPILLWAY_TESTS_ENGINE_TEXT_GOLDEN_FILE_H_
#define SPILLWAY_TESTS_ENGINE_TEXT_GOLDEN_FILE_H_

#include <string>

#include "nlohmann/json.hpp"

namespace spillway::text {

// Fails the test and returns null when the file is missing or damaged.
nlohmann::json ReadGolden(const std::string& name);

}  // namespace spillway::text

#endif  // SPILLWAY_TESTS_ENGINE_TEXT_GOLDEN_FILE_H_
