#include "profiler/measure.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/kv/memory_budget.h"
#include "engine/model/transformer.h"
#include "profiler/copy_meter.h"
#include "profiler/curve_sampler.h"
#include "profiler/device_timer.h"
#include "profiler/layer_meter.h"

namespace spillway::profiler {
namespace {

constexpr std::chrono::microseconds kPause(100);

// Phases in order, with their shares of the budget. What one leaves the next may use.
struct Phase {
  absl::string_view name;
  double share;
};
constexpr Phase kPhases[] = {{"link in", 0.20},
                             {"link out", 0.15},
                             {"link both ways", 0.05},
                             {"layer, link at rest", 0.05},
                             {"layer, link in busy", 0.05},
                             {"layer, linear part", 0.15},
                             {"K and V from X", 0.12},
                             {"attention, decode", 0.10},
                             {"attention, prefill", 0.06},
                             {"head", 0.06},
                             {"host memory", 0.03}};

// Walks through the phases: tells of each and says when it has to be done.
class Schedule {
 public:
  Schedule(const MeasureOptions& options, DeviceTimer& timer)
      : options_(options), timer_(timer), begin_ns_(options.clock->NowNs()) {
    timer.SetStall(options.stall_s);
  }

  // Begins the next phase. Returns when it should end.
  MonotonicNs Begin() {
    const Phase& phase = kPhases[next_];
    timer_.SetPhase(phase.name);
    if (options_.progress) {
      options_.progress(phase.name, static_cast<int>(next_), static_cast<int>(std::size(kPhases)));
    }
    ++next_;
    share_ += phase.share;
    return begin_ns_ + static_cast<MonotonicNs>(share_ * options_.budget_s * 1e9);
  }
  double elapsed_s() const { return ToSeconds(options_.clock->NowNs() - begin_ns_); }

 private:
  const MeasureOptions& options_;
  DeviceTimer& timer_;
  const MonotonicNs begin_ns_;
  size_t next_ = 0;
  double share_ = 0;
};

ProfiledModel Describe(const model::ModelConfig& config, const model::ModelWeights& weights,
                       const kv::Geometry& geometry) {
  ProfiledModel model;
  model.name = config.name;
  model.n_layers = config.n_layers;
  model.d_model = config.d_model;
  model.n_heads = config.n_heads;
  model.n_kv_heads = config.n_kv_heads;
  model.d_head = config.d_head;
  model.vocab_size = config.vocab_size;
  model.context_length = config.context_length;
  model.element_bytes = geometry.element_bytes;
  model.block_tokens = geometry.block_tokens;
  int64_t matrix_bytes = 0;
  for (const model::LayerWeights& layer : weights.layers()) {
    for (const device::PackedMatrix* matrix : {&layer.qkv, &layer.attention_output, &layer.up, &layer.down}) {
      matrix_bytes += matrix->size_bytes;
    }
  }
  // As the device holds them; norms and biases are less than a thousandth of it.
  model.layer_weight_bytes = static_cast<double>(matrix_bytes) / config.n_layers;
  model.weight_bytes = static_cast<double>(weights.allocated_bytes() + weights.host_bytes());
  return model;
}

absl::Status MeasureLink(CopyMeter& copies, const MeasureOptions& options, Schedule& schedule,
                         MachineProfile& profile) {
  const auto now_ns = [&options] { return options.clock->NowNs(); };
  MonotonicNs until_ns = schedule.Begin();
  SPILLWAY_ASSIGN_OR_RETURN(profile.copy_in, copies.Measure(CopyDirection::kIn, now_ns(), until_ns));
  until_ns = schedule.Begin();
  SPILLWAY_ASSIGN_OR_RETURN(profile.copy_out, copies.Measure(CopyDirection::kOut, now_ns(), until_ns));
  until_ns = schedule.Begin();
  SPILLWAY_ASSIGN_OR_RETURN(profile.copy_both_bytes_per_s,
                            copies.MeasureBoth(profile.copy_in, profile.copy_out, until_ns));
  // One way alone is not faster than both together: where it seems so, something else kept the machine busy.
  profile.copy_both_bytes_per_s =
      std::max({profile.copy_both_bytes_per_s, profile.copy_in.bytes_per_s, profile.copy_out.bytes_per_s});
  return absl::OkStatus();
}

absl::Status MeasureLayers(LayerMeter& layers, CopyMeter& copies, bool has_link, DeviceTimer& timer,
                           Schedule& schedule, MachineProfile& profile) {
  SPILLWAY_ASSIGN_OR_RETURN(const double at_rest_s, layers.MeasureLinearOnce(schedule.Begin()));
  if (has_link) timer.StartLoad(copies.LoadRuns(profile.copy_in));
  SPILLWAY_ASSIGN_OR_RETURN(const double beside_s, layers.MeasureLinearOnce(schedule.Begin()));
  // A busy link makes nothing faster: less than 1 is somebody else's load while the link was at rest.
  profile.compute_slowdown_by_link = has_link ? std::max(1.0, beside_s / at_rest_s) : 1;
  SPILLWAY_ASSIGN_OR_RETURN(profile.linear, layers.MeasureLinear(schedule.Begin()));
  SPILLWAY_ASSIGN_OR_RETURN(profile.rebuild, layers.MeasureRebuild(schedule.Begin()));
  SPILLWAY_ASSIGN_OR_RETURN(profile.attention, layers.MeasureDecodeAttention(schedule.Begin()));
  SPILLWAY_ASSIGN_OR_RETURN(profile.prefill_attention, layers.MeasurePrefillAttention(schedule.Begin()));
  SPILLWAY_ASSIGN_OR_RETURN(profile.head, layers.MeasureHead(schedule.Begin()));
  return absl::OkStatus();
}

std::function<void()> PauseOf(const MeasureOptions& options) {
  return options.pause ? options.pause : [] { std::this_thread::sleep_for(kPause); };
}

std::string DescribeSource(const device::DeviceInfo& info, absl::string_view model_name) {
  return absl::StrCat("measured", info.emulated_link ? " (emulated link)" : "", ": ", info.name, ", ",
                      model_name);
}

}  // namespace

absl::StatusOr<MachineProfile> MeasureProfile(device::Device& device, const model::ModelConfig& config,
                                              const model::ModelWeights& weights,
                                              const kv::Geometry& geometry, const MeasureOptions& options) {
  const device::DeviceInfo& info = device.info();
  DeviceTimer timer(device, *options.clock, PauseOf(options));
  const CurveSampler sampler(*options.clock);
  Schedule schedule(options, timer);

  MachineProfile profile;
  profile.source = info.emulated_link ? ProfileSource::kMeasuredEmulatedLink : ProfileSource::kMeasured;
  profile.model = Describe(config, weights, geometry);
  profile.description = DescribeSource(info, profile.model.name);
  profile.device_memory_bytes = static_cast<double>(info.memory_bytes);
  profile.host_memory_bytes = static_cast<double>(kv::ReadMemoryBudget("/").total_bytes);

  {
    SPILLWAY_ASSIGN_OR_RETURN(
        const std::unique_ptr<CopyMeter> copies,
        CopyMeter::Create(device, timer, sampler, geometry, /*page_lock=*/true, options.numa_node));
    SPILLWAY_RETURN_IF_ERROR(MeasureLink(*copies, options, schedule, profile));
    const int32_t chunk_blocks = std::max(2, options.chunk_tokens / geometry.block_tokens);
    const model::TransformerLimits limits{options.visit_rows, options.head_rows,
                                          chunk_blocks * geometry.block_tokens};
    profile.model.chunk_tokens = limits.max_rebuild_rows;
    SPILLWAY_ASSIGN_OR_RETURN(const std::unique_ptr<LayerMeter> layers,
                              LayerMeter::Create(device, timer, sampler, config, weights, geometry, limits,
                                                 info.host_addressable ? 0 : options.kv_chunk_tokens));
    absl::Status measured = MeasureLayers(*layers, *copies, !info.host_addressable, timer, schedule, profile);
    // Copies end before their memory goes, whatever happened.
    absl::Status drained = timer.StopLoad();
    SPILLWAY_RETURN_IF_ERROR(std::move(measured));
    SPILLWAY_RETURN_IF_ERROR(std::move(drained));
  }
  schedule.Begin();
  const int64_t host_bytes = options.host_buffer_bytes > 0 ? options.host_buffer_bytes : HostMeterBytes();
  SPILLWAY_ASSIGN_OR_RETURN(profile.host_memory_bytes_per_s, MeasureHostMemory(host_bytes, HostThreads()));
  if (info.kind == "cpu" && info.host_addressable) {
    // Its attention is attention over host memory.
    profile.host_attention_bytes_per_s =
        profile.model.beta_bytes() / profile.attention.pieces.back().per_unit_s;
  }
  profile.measuring_s = schedule.elapsed_s();
  SPILLWAY_RETURN_IF_ERROR(ValidateProfile(profile));
  return profile;
}

absl::Status MeasurePageableLink(device::Device& device, const kv::Geometry& geometry,
                                 const MeasureOptions& options, MachineProfile& profile) {
  DeviceTimer timer(device, *options.clock, PauseOf(options));
  const CurveSampler sampler(*options.clock);
  Schedule schedule(options, timer);
  SPILLWAY_ASSIGN_OR_RETURN(
      const std::unique_ptr<CopyMeter> copies,
      CopyMeter::Create(device, timer, sampler, geometry, /*page_lock=*/false, options.numa_node));
  MachineProfile measured = profile;
  SPILLWAY_RETURN_IF_ERROR(MeasureLink(*copies, options, schedule, measured));
  SPILLWAY_RETURN_IF_ERROR(ValidateProfile(measured));
  absl::StrAppend(&measured.description, "; host memory is not page-locked, the link is measured so");
  profile = std::move(measured);
  return absl::OkStatus();
}

}  // namespace spillway::profiler
