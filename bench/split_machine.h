// SplitMachine: a model of random weights on the CPU device behind an EMULATED link, and the profile that
// plans are made from, measured as the daemon measures it.
//
// Every session runs on a device of its own, alike: a device's streams and events live as long as it does.
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
  double link_mb_per_s = 100;
  int32_t threads = 0;              // 0: the cores of this process
  int64_t device_memory_bytes = 0;  // 0: no budget
  double profile_budget_s = 8;
};

struct SplitDevice {
  std::unique_ptr<device::Device> device;
  model::Model model;  // goes before its device
};

// Thread-compatible.
class SplitMachine {
 public:
  static absl::StatusOr<std::unique_ptr<SplitMachine>> Create(const SplitMachineOptions& options);

  const SplitMachineOptions& options() const { return options_; }
  absl::StatusOr<SplitDevice> MakeDevice() const;
  const kv::Geometry& geometry() const { return geometry_; }
  // X beside K and V where it is the smaller.
  kv::Form form() const {
    return geometry_.chi_bytes() < geometry_.beta_bytes() ? kv::Form::kBoth : kv::Form::kKv;
  }
  const profiler::MachineProfile& profile() const { return profile_; }
  double link_bytes_per_s() const { return options_.link_mb_per_s * 1e6; }
  // Seconds that carrying this many distinct tokens as keys and values takes at the link's rate, all layers.
  double TransferSeconds(double tokens) const {
    return tokens * static_cast<double>(geometry_.beta_bytes() * geometry_.n_layers) / link_bytes_per_s();
  }

 private:
  SplitMachine() = default;

  SplitMachineOptions options_;
  kv::Geometry geometry_;
  profiler::MachineProfile profile_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_MACHINE_H_
