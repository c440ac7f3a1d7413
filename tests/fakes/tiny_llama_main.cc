// Writes a tiny Llama of random weights as a GGUF file: for tests that need a daemon with a model, and for
// measurements in which the model should cost next to nothing.
//
//   write-tiny-llama --n_layers=1 --vocab_size=320 tiny.gguf
#include <iostream>
#include <string>
#include <vector>

#include "client/flags.h"
#include "tests/fakes/gguf_writer.h"

int main(int argc, char** argv) {
  using spillway::fakes::TinyLlamaOptions;
  TinyLlamaOptions options;
  spillway::client::FlagTable flags;
  flags.Add("n_layers", &options.n_layers, "N", "Default: 2.");
  flags.Add("d_model", &options.d_model, "N", "Default: 64.");
  flags.Add("n_kv_heads", &options.n_kv_heads, "N", "Of 4 heads. Default: 2.");
  flags.Add("d_ff", &options.d_ff, "N", "Default: 128.");
  flags.Add("vocab_size", &options.vocab_size, "N", "Default: 320.");
  flags.Add("context_length", &options.context_length, "N", "Default: 512.");
  flags.Add("seed", &options.seed, "N", "Of the weights. Default: 1.");
  const auto parsed = flags.Parse(std::vector<std::string>(argv + 1, argv + argc));
  if (!parsed.ok() || parsed->help || parsed->positional.size() != 1) {
    std::cerr << (parsed.ok() ? "usage: write-tiny-llama [flags] FILE"
                              : std::string(parsed.status().message()))
              << "\n"
              << flags.Help();
    return 2;
  }
  const absl::Status written = spillway::fakes::WriteTinyLlama(parsed->positional[0], options);
  if (!written.ok()) std::cerr << written << "\n";
  return written.ok() ? 0 : 1;
}
