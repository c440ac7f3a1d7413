// Weights that stay packed on the CUDA device, over the emulated GPU of tests/fakes/cuda: what they take.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "engine/device/cuda/cuda_device.h"
#include "engine/model/implied_tensors.h"
#include "engine/model/model.h"
#include "engine/model/weights.h"
#include "gtest/gtest.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

using device::Encoding;
using device::WeightMode;

class CudaWeights : public testing::Test {
 protected:
  // On a device that multiplies bf16, as GPUs do by default.
  void Load(const fakes::TinyLlamaOptions& options, WeightMode mode) {
    weights_.reset();
    bytes_ = fakes::TinyLlamaBytes(options);
    file_ = std::make_unique<GgufFile>(
        GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()}, "tiny").value());
    if (device_ == nullptr) {
      device::cuda::CudaDeviceOptions cuda;
      cuda.scratch_bytes = kMiB;
      cuda.workspace_bytes = 64 * kKiB;
      device_ = device::cuda::CreateCudaDevice(cuda).value();
    }
    WeightOptions load;
    load.mode = mode;
    load.threads = 3;
    weights_ = ModelWeights::Load(*device_, *file_, ConfigFromGguf(*file_).value(), load).value();
  }
  int64_t TensorBytes() const {
    int64_t bytes = 0;
    for (const device::TensorView& tensor : file_->tensors()) bytes += tensor.size_bytes;
    return bytes;
  }
  int64_t BytesOf(absl::string_view use) const {
    int64_t bytes = 0;
    for (const MemoryUse& entry : weights_->memory()) {
      if (entry.use == use) bytes += entry.bytes;
    }
    return bytes;
  }
  std::vector<uint8_t> OnDevice(const device::PackedMatrix& matrix) {
    std::vector<uint8_t> bytes(static_cast<size_t>(matrix.size_bytes));
    const device::StreamId stream = device_->CreateStream("test");
    const device::EventId event = device_->CreateEvent();
    device_->CopyOut(stream, bytes.data(), matrix.data, matrix.size_bytes);
    device_->Record(event, stream);
    EXPECT_TRUE(device_->Synchronize(event).ok());
    return bytes;
  }
  void ExpectTheFilesEmbedding() {
    const device::TensorView& tensor = *file_->FindTensor("token_embd.weight");
    const std::vector<uint8_t> got = OnDevice(weights_->embedding());
    ASSERT_EQ(static_cast<int64_t>(got.size()), tensor.size_bytes);
    EXPECT_EQ(std::memcmp(got.data(), tensor.data, got.size()), 0);
  }

  std::string bytes_;
  std::unique_ptr<GgufFile> file_;
  std::unique_ptr<device::Device> device_;
  std::unique_ptr<ModelWeights> weights_;
};

// In the proportions of a Llama 3.2 of 1B parameters, of which the embedding is a fifth.
fakes::TinyLlamaOptions SmallLlama() {
  fakes::TinyLlamaOptions options;
  options.n_layers = 8;
  options.d_model = 256;
  options.n_heads = 8;
  options.n_kv_heads = 2;
  options.d_ff = 1024;
  options.vocab_size = 8192;  // more rows than one loading job
  options.encoding = Encoding::kQ4_K;
  return options;
}

TEST_F(CudaWeights, TakeWhatTheirFileHasWithOneCopyOfATiedEmbedding) {
  for (const WeightMode mode : {WeightMode::kAuto, WeightMode::kPacked}) {
    Load(SmallLlama(), mode);
    EXPECT_LE(static_cast<double>(weights_->allocated_bytes()), 1.01 * static_cast<double>(TensorBytes()));
    EXPECT_EQ(weights_->embedding().data, weights_->head().data);
    EXPECT_EQ(weights_->read_bytes_per_step(), weights_->allocated_bytes());
    EXPECT_EQ(BytesOf("weights: embedding, which is the head"), 8192 * 144);
    EXPECT_EQ(weights_->plain_bytes(), 0);
    EXPECT_LE(weights_->packed_bytes(), weights_->allocated_bytes());
    EXPECT_GE(weights_->packed_bytes(), weights_->allocated_bytes() * 99 / 100);
    ExpectTheFilesEmbedding();
  }
}

TEST_F(CudaWeights, AnExpandedEmbeddingIsTheTiedHeadToo) {
  fakes::TinyLlamaOptions options = SmallLlama();
  options.n_layers = 1;
  Load(options, WeightMode::kExpanded);
  EXPECT_EQ(weights_->embedding().data, weights_->head().data);
  EXPECT_EQ(BytesOf("weights: embedding, which is the head"), 8192 * 256 * 2);
  EXPECT_EQ(weights_->packed_bytes(), 0);
  EXPECT_GT(weights_->plain_bytes(), 8192 * 256 * 2);
}

TEST_F(CudaWeights, AnEmbeddingStaysPackedWhereNoProductWouldReadItSo) {
  fakes::TinyLlamaOptions options;
  options.d_model = 96;
  options.n_heads = 3;
  options.n_kv_heads = 1;
  options.has_tied_embedding = false;
  options.encoding = Encoding::kQ8_0;
  Load(options, WeightMode::kAuto);
  EXPECT_EQ(weights_->head().encoding, Encoding::kBF16);
  EXPECT_EQ(weights_->layers()[0].qkv.encoding, Encoding::kBF16);
  EXPECT_EQ(weights_->packed_bytes(), 320 * 3 * 34);
  EXPECT_EQ(BytesOf("weights: embedding"), (320 * 3 * 34 + 255) / 256 * 256);
  ExpectTheFilesEmbedding();
  // One expanded copy is less than that and another of the rows.
  options.has_tied_embedding = true;
  Load(options, WeightMode::kAuto);
  EXPECT_EQ(weights_->embedding().encoding, Encoding::kBF16);
  EXPECT_EQ(weights_->embedding().data, weights_->head().data);
}

}  // namespace
}  // namespace spillway::model
