// What is said to be needed of the device is what the executor and its items take.
#include "engine/exec/link_memory.h"

#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "engine/exec/cache_geometry.h"
#include "engine/exec/link_executor.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::exec {
namespace {

std::string WriteModel(int32_t n_kv_heads) {
  const std::string path =
      testing::TempDir() + std::to_string(getpid()) + "_link_memory_" + std::to_string(n_kv_heads) + ".gguf";
  fakes::TinyLlamaOptions options;
  options.n_heads = 8;
  options.n_kv_heads = n_kv_heads;
  options.d_model = 128;
  options.n_layers = 3;
  EXPECT_TRUE(fakes::WriteTinyLlama(path, options).ok());
  return path;
}

// A device of so many bytes (0: no bound) with the model, and whether everything can be made in it.
class Device {
 public:
  Device(const std::string& path, int64_t memory_bytes) {
    device::CpuDeviceOptions cpu;
    cpu.dtype = device::DType::kF32;
    cpu.threads = 1;
    cpu.memory_bytes = memory_bytes;
    device::StreamEngineOptions link;
    link.link_bytes_per_s = 2e9;
    device_ = *device::CreateEmulatedLinkDevice(*device::CreateCpuDevice(cpu), link);
    model_ = *model::LoadModel(path, *device_, {});
    geometry_ = CacheGeometry(model_.config, device::DType::kF32, 16);
    stores_x_ = geometry_.chi_bytes() < geometry_.beta_bytes();
    options_.chunk_rows = 64;
    options_.ring_chunk_bytes = 4 * kMiB;  // what is left out shows beside what is spare
    options_.reserve_bytes = WorkItemBytes(model_.config, items_, options_.chunk_rows);
  }

  int64_t NeededBytes() const {
    return LinkBytes(options_, model_.config, device::DType::kF32, geometry_, stores_x_, kBlocks, items_);
  }
  int64_t allocated_bytes() const { return device_->allocated_bytes(); }

  // Bytes that are taken when all is made; -1: there is not enough.
  int64_t Make() {
    const kv::Form smallest = stores_x_ ? kv::Form::kX : kv::Form::kKv;
    const auto pool =
        kv::HostPool::Create(*device_, geometry_, kBlocks * geometry_.block_bytes(smallest), stores_x_);
    EXPECT_TRUE(pool.ok()) << pool.status();
    kv::BlockStore blocks(**pool);
    EXPECT_EQ(blocks.max_blocks(), kBlocks);
    const auto executor =
        LinkExecutor::Create(*device_, model_.config, *model_.weights, **pool, blocks, options_);
    if (!executor.ok()) return -1;
    std::vector<std::unique_ptr<WorkItem>> items;
    for (const ItemLimits& limits : items_) {
      auto item = (*executor)->CreateWorkItem(limits);
      if (!item.ok()) return -1;
      items.push_back(*std::move(item));
    }
    return device_->allocated_bytes();
  }

  static constexpr int64_t kBlocks = 256;

 private:
  const std::vector<ItemLimits> items_ = {{64, 4, 256, 4, 0}, {64, 4, 256, 4, 0}, {8, 8, 512, 8, 0}};
  std::unique_ptr<device::Device> device_;
  model::Model model_;
  kv::Geometry geometry_;
  bool stores_x_ = false;
  LinkExecutorOptions options_;
};

TEST(LinkMemory, IsWhatTheExecutorAndItsItemsTake) {
  for (const int32_t n_kv_heads : {8, 2}) {
    const std::string path = WriteModel(n_kv_heads);
    Device unbounded(path, 0);
    const int64_t weights_bytes = unbounded.allocated_bytes();
    const int64_t needed_bytes = unbounded.NeededBytes();

    Device enough(path, weights_bytes + needed_bytes);
    const int64_t taken_bytes = enough.Make();
    EXPECT_GT(taken_bytes, 0) << n_kv_heads << " key heads: what is said to be enough is not";
    EXPECT_LE(taken_bytes, weights_bytes + needed_bytes);
    // Nothing of it but what is spare is left.
    EXPECT_GT(taken_bytes, weights_bytes + needed_bytes - 2 * kLinkSpareBytes);

    Device too_small(path, weights_bytes + needed_bytes - 2 * kLinkSpareBytes - (16 << 10));
    EXPECT_EQ(too_small.Make(), -1) << n_kv_heads << " key heads: less would have been enough";
    unlink(path.c_str());
  }
}

}  // namespace
}  // namespace spillway::exec
