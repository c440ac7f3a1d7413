// SplitMachine: a model of random weights on the CPU device behind an EMULATED link, or on a GPU behind its
// own, and the profile that plans are made from, measured as the daemon measures it.
//
// Its sessions run on its one device, so that the weights cross the link once.
#ifndef SPILLWAY_BENCH_SPLIT_MACHINE_H_
#define SPILLWAY_BENCH_SPLIT_MACHINE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/kv/geometry.h"
#include "engine/model/model.h"
#include "profiler/machine_profile.h"

namespace spillway::bench {

// A model by its shape alone.
struct SplitModel {
  std::string name;         // "multi-head", "grouped-query"
  std::string config_json;  // as Hugging Face's config.json
};
SplitModel MultiHeadModel();     // OPT-like, d = 1024, 16 heads of 64
SplitModel GroupedQueryModel();  // Llama-like, d = 1024, 16 query heads on 4 KV heads

constexpr int64_t kRingChunkBytes = int64_t{512} << 10;

struct SplitMachineOptions {
  SplitModel model;
  bool cuda = false;                // instead of an emulated link
  std::string cuda_module;          // empty: beside the program
  bool overlap_kernels = true;      // with cuda, where the GPU can
  double link_mb_per_s = 100;       // with cuda of no account
  int32_t threads = 0;              // 0: the cores of this process
  int64_t device_memory_bytes = 0;  // 0: no budget
  double profile_budget_s = 8;
};

// Thread-compatible. Outlives its sessions, of which one runs at a time.
class SplitMachine {
 public:
  static absl::StatusOr<std::unique_ptr<SplitMachine>> Create(const SplitMachineOptions& options);

  const SplitMachineOptions& options() const { return options_; }
  device::Device& device() const { return *device_; }
  const model::Model& model() const { return model_; }
  const kv::Geometry& geometry() const { return geometry_; }
  // X beside K and V where it is the smaller.
  kv::Form form() const {
    return geometry_.chi_bytes() < geometry_.beta_bytes() ? kv::Form::kBoth : kv::Form::kKv;
  }
  const profiler::MachineProfile& profile() const { return profile_; }
  std::string DescribeLink() const;  // "EMULATED link of 100 MB/s", or the GPU and its own
  // A GPU's is measured.
  double link_bytes_per_s() const {
    return options_.cuda ? profile_.copy_in.bytes_per_s : options_.link_mb_per_s * 1e6;
  }
  // Seconds that carrying this many distinct tokens as keys and values takes at the link's rate, all layers.
  double TransferSeconds(double tokens) const {
    return tokens * static_cast<double>(geometry_.beta_bytes() * geometry_.n_layers) / link_bytes_per_s();
  }

 private:
  SplitMachine() = default;

  absl::StatusOr<std::unique_ptr<device::Device>> MakeDevice() const;
  absl::Status LoadModel();

  SplitMachineOptions options_;
  std::unique_ptr<device::Device> device_;
  model::Model model_;  // goes before its device
  kv::Geometry geometry_;
  profiler::MachineProfile profile_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_MACHINE_H_
