// Logits that Hugging Face Transformers computed, as tests/golden/make_model_goldens.py writes them.
#ifndef SPILLWAY_TESTS_ENGINE_EXEC_GOLDEN_LOGITS_H_
#define SPILLWAY_TESTS_ENGINE_EXEC_GOLDEN_LOGITS_H_

#include <string>
#include <vector>

#include "engine/text/vocabulary.h"

namespace spillway::exec {

struct GoldenLogits {
  std::vector<std::vector<text::TokenId>> ids;          // [prompts][tokens]
  std::vector<std::vector<std::vector<float>>> logits;  // [prompts][tokens][vocab]
};

// Fails the test where the file is not whole.
GoldenLogits ReadGoldenLogits(const std::string& path);

}  // namespace spillway::exec

#endif  // SPILLWAY_TESTS_ENGINE_EXEC_GOLDEN_LOGITS_H_
