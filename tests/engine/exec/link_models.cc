#include "tests/engine/exec/link_models.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::exec {

const std::string& ModelPath(Heads heads) {
  static const std::vector<std::string>* const paths = [] {
    auto* names = new std::vector<std::string>();
    for (const int32_t n_kv_heads : {8, 2}) {
      names->push_back(absl::StrCat(::testing::TempDir(), getpid(), "_link_executor_", n_kv_heads, ".gguf"));
      fakes::TinyLlamaOptions options;
      options.n_heads = 8;
      options.n_kv_heads = n_kv_heads;
      options.d_model = 128;
      options.n_layers = kLayers;
      options.vocab_size = kVocab;
      options.seed = 11;
      const absl::Status status = fakes::WriteTinyLlama(names->back(), options);
      if (!status.ok()) ADD_FAILURE() << status;
    }
    return names;
  }();
  return (*paths)[static_cast<size_t>(heads)];
}

}  // namespace spillway::exec
