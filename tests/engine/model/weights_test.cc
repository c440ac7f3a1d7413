#include "engine/model/weights.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/numa_node.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/model/model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/forwarding_device.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::model {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<device::Device> MakeDevice(device::DType dtype, int64_t memory_bytes = 0) {
  device::CpuDeviceOptions options;
  options.dtype = dtype;
  options.memory_bytes = memory_bytes;
  options.threads = 2;
  return std::move(device::CreateCpuDevice(options).value());
}

// A parsed tiny model; the bytes stay beside it.
struct TinyFile {
  explicit TinyFile(const fakes::TinyLlamaOptions& options)
      : bytes(fakes::TinyLlamaBytes(options)),
        file(GgufFile::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "tiny").value()),
        config(ConfigFromGguf(file).value()) {}

  std::string bytes;
  GgufFile file;
  ModelConfig config;
};

const void* HostOf(device::DevicePtr ptr) { return reinterpret_cast<const void*>(ptr.address); }

int64_t BytesOf(const ModelWeights& weights, absl::string_view use) {
  for (const MemoryUse& entry : weights.memory()) {
    if (entry.use == use) return entry.bytes;
  }
  return 0;
}

TEST(ModelWeightsTest, AGpuDoesNotSayHowManyThreadsLoad) {
  device::DeviceInfo info;
  info.kind = "cpu";
  info.threads = 3;
  WeightOptions options;
  EXPECT_EQ(LoadingThreads(info, options), 3);
  info.kind = "cuda";
  info.threads = 1;
  const auto cores = static_cast<int32_t>(std::thread::hardware_concurrency());
  EXPECT_EQ(LoadingThreads(info, options), std::min(cores, 8));
  options.threads = 5;
  EXPECT_EQ(LoadingThreads(info, options), 5);
}

TEST(ModelWeightsTest, MemoryTableAddsUpAndNamesTheTiedHead) {
  const TinyFile tiny({});
  const auto device = MakeDevice(device::DType::kF32);
  const auto weights = ModelWeights::Load(*device, tiny.file, tiny.config, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  int64_t sum = 0;
  for (const MemoryUse& entry : (*weights)->memory()) sum += entry.bytes;
  EXPECT_EQ(sum, (*weights)->allocated_bytes());
  EXPECT_EQ(BytesOf(**weights, "weights: embedding"), 320 * 64 * 4);
  EXPECT_GE(BytesOf(**weights, "weights: head (the tied embedding, packed for products)"), 320 * 64 * 4);
  EXPECT_EQ(BytesOf(**weights, "weights: head"), 0);
  EXPECT_EQ((*weights)->read_bytes_per_step(), sum - 320 * 64 * 4);
  EXPECT_GE(device->allocated_bytes(), sum);
}

TEST(ModelWeightsTest, MemoryGoesBackWithTheWeights) {
  const TinyFile tiny({});
  const auto device = MakeDevice(device::DType::kBF16);
  const int64_t before = device->allocated_bytes();
  { ASSERT_TRUE(ModelWeights::Load(*device, tiny.file, tiny.config, {}).ok()); }
  EXPECT_EQ(device->allocated_bytes(), before);
}

TEST(ModelWeightsTest, UntiedHeadIsTheOutputMatrix) {
  fakes::TinyLlamaOptions options;
  options.has_tied_embedding = false;
  const TinyFile tiny(options);
  const auto device = MakeDevice(device::DType::kF32);
  const auto weights = ModelWeights::Load(*device, tiny.file, tiny.config, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_GT(BytesOf(**weights, "weights: head"), 0);
  EXPECT_EQ((*weights)->head().n, 320);
  EXPECT_EQ((*weights)->head().k, 64);
  EXPECT_EQ((*weights)->layers()[0].qkv.n, 64 + 2 * 32);
  EXPECT_EQ((*weights)->layers()[0].up.n, 2 * 128);
}

TEST(ModelWeightsTest, EmbeddingRowsAreTheFilesInTheComputeType) {
  fakes::TinyLlamaOptions options;
  options.vocab_size = 5000;  // more rows than one loading job
  options.encoding = device::Encoding::kQ8_0;
  const TinyFile tiny(options);
  const device::TensorView& tensor = *tiny.file.FindTensor("token_embd.weight");
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  device::DecodeToF32(tensor.encoding, tensor.data, tensor.elements(), values.data());
  const auto device = MakeDevice(device::DType::kF32);
  const auto weights = ModelWeights::Load(*device, tiny.file, tiny.config, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(std::memcmp(HostOf((*weights)->embedding().data), values.data(), values.size() * 4), 0);
}

TEST(ModelWeightsTest, InverseFrequenciesFollowThetaScalingAndFactors) {
  fakes::TinyLlamaOptions options;
  options.has_rope_factors = true;
  options.rope_theta = 500000;
  options.amend = [](fakes::GgufWriter& writer) {
    writer.String("llama.rope.scaling.type", "linear").Float32("llama.rope.scaling.factor", 4);
  };
  const TinyFile tiny(options);
  ASSERT_FALSE(tiny.config.rope.freq_factors.empty());
  const auto device = MakeDevice(device::DType::kBF16);
  const auto weights = ModelWeights::Load(*device, tiny.file, tiny.config, {});
  ASSERT_TRUE(weights.ok()) << weights.status();
  const float* frequencies = static_cast<const float*>(HostOf((*weights)->inverse_frequency()));
  for (int i = 0; i < 8; ++i) {
    const double factor = tiny.config.rope.freq_factors[static_cast<size_t>(i)];
    EXPECT_NEAR(frequencies[i] * 4 * factor * std::pow(500000.0, 2.0 * i / 16), 1, 1e-6) << i;
  }
}

TEST(ModelWeightsTest, ProgressRisesToTheWhole) {
  const TinyFile tiny({});
  const auto device = MakeDevice(device::DType::kF32);
  std::vector<int64_t> done;
  int64_t total = 0;
  WeightOptions options;
  options.threads = 3;
  options.progress = [&](int64_t done_bytes, int64_t total_bytes) {
    done.push_back(done_bytes);
    total = total_bytes;
  };
  ASSERT_TRUE(ModelWeights::Load(*device, tiny.file, tiny.config, options).ok());
  ASSERT_FALSE(done.empty());
  for (size_t i = 1; i < done.size(); ++i) EXPECT_GT(done[i], done[i - 1]);
  EXPECT_EQ(done.back(), total);
}

TEST(ModelWeightsTest, LayersOnTheHostComeFromTheNodeThatIsAskedFor) {
  const TinyFile tiny({});
  const auto device = MakeDevice(device::DType::kBF16);
  WeightOptions options;
  options.layers_on = WeightPlace::kHost;
  const auto mode_of = [](const ModelWeights& weights) {
    int mode = -1;
    unsigned long nodes[kMaxNumaNodes / (8 * sizeof(unsigned long))] = {};
    EXPECT_EQ(syscall(SYS_get_mempolicy, &mode, nodes, kMaxNumaNodes, weights.HostLayer(1), MPOL_F_ADDR), 0);
    return mode;
  };
  EXPECT_EQ(mode_of(**ModelWeights::Load(*device, tiny.file, tiny.config, options)), MPOL_DEFAULT);
  options.numa_node = 0;
  EXPECT_EQ(mode_of(**ModelWeights::Load(*device, tiny.file, tiny.config, options)), MPOL_PREFERRED);
  options.numa_node = 999;
  EXPECT_TRUE(ModelWeights::Load(*device, tiny.file, tiny.config, options).ok()) << "with a warning";
}

// A layer's bytes work wherever they are copied to, as a whole.
TEST(ModelWeightsTest, LayersOnTheHostAreTheBytesOfTheDevice) {
  const TinyFile tiny({});
  const auto device = MakeDevice(device::DType::kBF16);
  WeightOptions options;
  const auto resident = ModelWeights::Load(*device, tiny.file, tiny.config, options);
  options.layers_on = WeightPlace::kHost;
  const auto on_host = ModelWeights::Load(*device, tiny.file, tiny.config, options);
  ASSERT_TRUE(resident.ok() && on_host.ok());
  const ModelWeights& streamed = **on_host;
  EXPECT_EQ((*resident)->allocated_bytes(), streamed.allocated_bytes() + streamed.host_bytes());
  EXPECT_EQ((*resident)->read_bytes_per_step(), streamed.read_bytes_per_step());
  EXPECT_NE((*resident)->Find(1), nullptr);
  EXPECT_EQ(streamed.Find(1), nullptr);

  const int64_t layer_bytes = streamed.LayerBytes(1);
  EXPECT_EQ(layer_bytes * tiny.config.n_layers, streamed.host_bytes());
  const auto memory = device->Allocate(layer_bytes, "a slot");
  ASSERT_TRUE(memory.ok());
  std::memcpy(reinterpret_cast<void*>(memory->address), streamed.HostLayer(1),
              static_cast<size_t>(layer_bytes));
  const LayerWeights here = streamed.LayerAt(1, *memory);
  const LayerWeights& want = (*resident)->layers()[1];
  const auto expect_same = [](device::DevicePtr a, device::DevicePtr b, int64_t size_bytes) {
    EXPECT_EQ(std::memcmp(HostOf(a), HostOf(b), static_cast<size_t>(size_bytes)), 0);
  };
  expect_same(here.qkv.data, want.qkv.data, want.qkv.size_bytes);
  expect_same(here.attention_output.data, want.attention_output.data, want.attention_output.size_bytes);
  expect_same(here.up.data, want.up.data, want.up.size_bytes);
  expect_same(here.down.data, want.down.data, want.down.size_bytes);
  expect_same(here.attention_norm, want.attention_norm, int64_t{tiny.config.d_model} * 4);
  expect_same(here.feed_forward_norm, want.feed_forward_norm, int64_t{tiny.config.d_model} * 4);
  EXPECT_FALSE(here.qkv_bias);
  device->Free(*memory);
}

// Says that the host cannot reach its memory, so that weights have to be copied to it.
class RemoteDevice : public device::ForwardingDevice {
 public:
  explicit RemoteDevice(device::Device& target, int64_t memory_bytes = 0)
      : ForwardingDevice(target), info_(target.info()) {
    info_.host_addressable = false;
    if (memory_bytes > 0) info_.memory_bytes = memory_bytes;
  }
  const device::DeviceInfo& info() const override { return info_; }
  void CopyIn(device::StreamId stream, device::DevicePtr destination, const void* source,
              int64_t size_bytes) override {
    copied_bytes += size_bytes;
    ForwardingDevice::CopyIn(stream, destination, source, size_bytes);
  }

  int64_t copied_bytes = 0;

 private:
  device::DeviceInfo info_;
};

TEST(ModelWeightsTest, LayersGoToTheHostWhereTheDeviceIsTooSmallAndTheLeastThatWorksIsNamed) {
  const TinyFile tiny({});
  const auto target = MakeDevice(device::DType::kBF16);
  const auto load = [&](int64_t memory_bytes, WeightPlace layers_on) {
    RemoteDevice device(*target, memory_bytes);
    WeightOptions options;
    options.layers_on = layers_on;
    options.reserve = [](int64_t bytes) { return 10'000 + bytes / 50; };
    auto weights = ModelWeights::Load(device, tiny.file, tiny.config, options);
    return weights.ok() ? absl::StatusOr<bool>((*weights)->layers_on_host()) : weights.status();
  };
  const auto named_bytes = [](const absl::Status& status) {
    const std::string message(status.message());
    const size_t end = message.find(" bytes)");
    return std::stoll(message.substr(message.rfind('(', end) + 1));
  };
  EXPECT_EQ(load(int64_t{1} << 30, WeightPlace::kAuto).value(), false);
  const auto refused = load(20'000, WeightPlace::kDevice);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const int64_t all_bytes = named_bytes(refused.status());
  EXPECT_EQ(load(all_bytes, WeightPlace::kDevice).value(), false);
  EXPECT_EQ(load(all_bytes, WeightPlace::kAuto).value(), false);
  EXPECT_FALSE(load(all_bytes - 1000, WeightPlace::kDevice).ok());
  // Two layers are all that the tiny model has: one that is larger than two of its layers.
  fakes::TinyLlamaOptions deep;
  deep.n_layers = 6;
  const TinyFile deep_file(deep);
  RemoteDevice small(*target, all_bytes);
  WeightOptions options;
  options.layers_on = WeightPlace::kAuto;
  const auto streamed = ModelWeights::Load(small, deep_file.file, deep_file.config, options);
  ASSERT_TRUE(streamed.ok()) << streamed.status();
  EXPECT_TRUE((*streamed)->layers_on_host());
}

TEST(ModelWeightsTest, RemoteDeviceGetsTheSameBytesByCopies) {
  const TinyFile tiny({});
  for (const int32_t threads : {1, 4}) {
    const auto near_device = MakeDevice(device::DType::kBF16);
    const auto target = MakeDevice(device::DType::kBF16);
    RemoteDevice far_device(*target);
    WeightOptions options;
    options.threads = threads;
    const auto near = ModelWeights::Load(*near_device, tiny.file, tiny.config, options);
    const auto far = ModelWeights::Load(far_device, tiny.file, tiny.config, options);
    ASSERT_TRUE(near.ok() && far.ok());
    ASSERT_EQ((*near)->allocated_bytes(), (*far)->allocated_bytes());
    EXPECT_GT(far_device.copied_bytes, 0);
    EXPECT_EQ(std::memcmp(HostOf((*near)->layers()[1].down.data), HostOf((*far)->layers()[1].down.data),
                          static_cast<size_t>((*near)->layers()[1].down.size_bytes)),
              0);
    EXPECT_EQ(std::memcmp(HostOf((*near)->head().data), HostOf((*far)->head().data),
                          static_cast<size_t>((*near)->head().size_bytes)),
              0);
  }
}

TEST(ModelWeightsTest, TooLittleDeviceMemoryIsRefused) {
  const TinyFile tiny({});
  const auto device = MakeDevice(device::DType::kF32, 64 * 1024);
  const auto weights = ModelWeights::Load(*device, tiny.file, tiny.config, {});
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("model weights"));
}

class DeviceThatCannotPack : public device::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  absl::Status PackMatrix(absl::Span<const device::TensorView> parts, const device::PackedMatrix&,
                          void*) const override {
    return absl::InternalError(parts[0].name);
  }
};

TEST(ModelWeightsTest, ErrorOfALoadingThreadIsReturnedAndMemoryFreed) {
  const TinyFile tiny({});
  const auto target = MakeDevice(device::DType::kF32);
  DeviceThatCannotPack device(*target);
  WeightOptions options;
  options.threads = 3;
  const auto weights = ModelWeights::Load(device, tiny.file, tiny.config, options);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(target->allocated_bytes(), 0);
}

TEST(LoadModelTest, GivesEverythingOfAFile) {
  const std::string path = ::testing::TempDir() + std::to_string(getpid()) + "_load_model_test.gguf";
  fakes::TinyLlamaOptions options;
  options.name = "Tiny One";
  ASSERT_TRUE(fakes::WriteTinyLlama(path, options).ok());
  const auto device = MakeDevice(device::DType::kF32);
  const auto model = LoadModel(path, *device, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->path, path);
  EXPECT_EQ(model->file_bytes, static_cast<int64_t>(fakes::TinyLlamaBytes(options).size()));
  EXPECT_EQ(model->config.name, "Tiny One");
  EXPECT_EQ(model->vocabulary.tokens.size(), 320u);
  EXPECT_EQ(model->weights->layers().size(), 2u);
  EXPECT_NE(model->fingerprint, ModelFingerprint{});
}

TEST(LoadModelTest, MissingFileIsRefusedByName) {
  const auto device = MakeDevice(device::DType::kF32);
  const auto model = LoadModel("/nowhere/model.gguf", *device, {});
  EXPECT_FALSE(model.ok());
  EXPECT_THAT(std::string(model.status().message()), HasSubstr("/nowhere/model.gguf"));
}

}  // namespace
}  // namespace spillway::model
