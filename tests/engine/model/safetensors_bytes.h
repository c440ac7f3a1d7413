// Writes safetensors files, sound and otherwise.
#ifndef SPILLWAY_TESTS_ENGINE_MODEL_SAFETENSORS_BYTES_H_
#define SPILLWAY_TESTS_ENGINE_MODEL_SAFETENSORS_BYTES_H_

#include <cstdint>
#include <string>

namespace spillway::model {

inline std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8)
    bytes.push_back(static_cast<char>(uint64_t{header.size()} >> shift));
  return bytes + header + data;
}

}  // namespace spillway::model

#endif  // SPILLWAY_TESTS_ENGINE_MODEL_SAFETENSORS_BYTES_H_
