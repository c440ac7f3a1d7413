// Replays the inputs of tests/fuzz/safetensors_fuzz.cc at the edge of readable memory.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"
#include "tests/fakes/guarded_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace spillway::model {
namespace {

TEST(HostileSafetensors, InputsOfTheFuzzerAreReplayed) {
  int replayed = 0;
  for (const auto& entry : std::filesystem::directory_iterator("tests/fuzz/corpus/safetensors_fuzz")) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(in), {});
    fakes::GuardedBytes guarded(bytes);
    EXPECT_EQ(LLVMFuzzerTestOneInput(guarded.All().data(), guarded.All().size()), 0) << entry.path();
    ++replayed;
  }
  EXPECT_GE(replayed, 6);
}

}  // namespace
}  // namespace spillway::model
