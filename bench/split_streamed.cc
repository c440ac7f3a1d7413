#include "bench/split_streamed.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "bench/shaped_model.h"
#include "bench/split_measure.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "engine/exec/cache_geometry.h"
#include "engine/exec/link_executor.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {
namespace {

constexpr int32_t kBlockTokens = 16;
constexpr text::TokenId kToken = 100;

class Session {
 public:
  static absl::StatusOr<std::unique_ptr<Session>> Create(const StreamedOptions& options) {
    auto session = std::unique_ptr<Session>(new Session(options));
    device::CpuDeviceOptions cpu;
    cpu.threads = options.threads;
    SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<device::Device> compute, device::CreateCpuDevice(cpu));
    device::StreamEngineOptions link;
    link.link_bytes_per_s = options.link_bytes_per_s;
    SPILLWAY_ASSIGN_OR_RETURN(session->device_, device::CreateEmulatedLinkDevice(std::move(compute), link));
    model::WeightOptions weights;
    weights.layers_on = model::WeightPlace::kHost;
    SPILLWAY_ASSIGN_OR_RETURN(session->model_,
                              LoadShapedModel(options.config_json, *session->device_, weights));
    SPILLWAY_RETURN_IF_ERROR(session->CreateExecutor());
    return session;
  }

  // One step of every sequence.
  absl::StatusOr<StreamedRun> Measure(const std::string& name, exec::Schedule schedule, bool one_batch,
                                      int32_t steps, const std::atomic<bool>& stop) {
    StreamedRun run;
    run.name = name;
    for (int32_t step = warm_ ? 1 : 0; step <= steps; ++step) {
      if (stop) return absl::CancelledError("stopped");
      const MonotonicNs begin_ns = Clock::Real().NowNs();
      run.weights_s = 0;
      run.weight_bytes = 0;
      SPILLWAY_RETURN_IF_ERROR(Step(schedule, one_batch, &run));
      if (step > 0) run.wall_s.push_back(ToSeconds(Clock::Real().NowNs() - begin_ns));
      warm_ = true;
    }
    return run;
  }

  int64_t pass_bytes() const { return executor_->weight_pass_bytes(); }
  int64_t device_bytes() const { return device_->allocated_bytes(); }

 private:
  explicit Session(const StreamedOptions& options) : options_(options) {}

  int32_t all() const { return options_.items * options_.sequences; }

  absl::Status CreateExecutor() {
    const kv::Geometry geometry =
        exec::CacheGeometry(model_.config, device_->info().compute_dtype, kBlockTokens);
    const int64_t n_blocks = all() * (geometry.blocks_for(options_.context) + 1) + 8;
    SPILLWAY_ASSIGN_OR_RETURN(
        pool_, kv::HostPool::Create(*device_, geometry, n_blocks * geometry.block_bytes(kv::Form::kKv)));
    blocks_ = std::make_unique<kv::BlockStore>(*pool_);
    for (int64_t i = 0; i < n_blocks; ++i) (void)blocks_->Allocate();
    exec::LinkExecutorOptions options;
    options.chunk_rows = all();
    options.ring_chunk_bytes = 512 * kKiB;
    options.resident_blocks_max = 0;
    options.cache_bytes = 6 * all() * geometry.block_bytes(kv::Form::kKv);
    SPILLWAY_ASSIGN_OR_RETURN(executor_, exec::LinkExecutor::Create(*device_, model_.config, *model_.weights,
                                                                    *pool_, *blocks_, options));
    for (int32_t i = 0; i <= options_.items; ++i) {
      exec::ItemLimits limits;
      limits.max_rows = limits.max_segments = limits.max_outputs =
          i < options_.items ? options_.sequences : all();
      limits.max_blocks = n_blocks;
      SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<exec::WorkItem> item, executor_->CreateWorkItem(limits));
      items_.push_back(std::move(item));
    }
    const int32_t per_sequence = options_.context / kBlockTokens + 1;
    for (int32_t s = 0; s < all(); ++s) {
      for (int32_t b = 0; b < per_sequence; ++b) tables_.push_back(s * per_sequence + b);
    }
    for (int32_t s = 0; s < all(); ++s) {
      exec::Segment& segment = segments_.emplace_back();
      segment.sequence = static_cast<uint64_t>(s);
      segment.tokens = {&kToken, 1};
      segment.first_position = options_.context;
      segment.blocks = absl::MakeConstSpan(tables_).subspan(static_cast<size_t>(s * per_sequence),
                                                            static_cast<size_t>(per_sequence));
      segment.output = exec::Output::kSample;
      segment.sample.top_p = segment.sample.repetition_penalty = 1;
      segment.sample.n_logprobs = -1;
      segment.sample.position = options_.context + 1;
    }
    return absl::OkStatus();
  }

  void Begin(int32_t item, exec::Schedule schedule) {
    const auto segments = absl::MakeConstSpan(segments_);
    const bool whole = item == options_.items;
    const auto own = whole ? segments
                           : segments.subspan(static_cast<size_t>(item * options_.sequences),
                                              static_cast<size_t>(options_.sequences));
    exec::SplitPlan plan = exec::TransferPlan(executor_->ShapeOf(exec::Phase::kDecode, own));
    plan.schedule = schedule;
    executor_->Begin(*items_[static_cast<size_t>(item)], exec::Phase::kDecode, own, plan);
  }

  absl::Status Finish(int32_t item, StreamedRun* run) {
    SPILLWAY_ASSIGN_OR_RETURN(const exec::StepResult result,
                              executor_->Finish(*items_[static_cast<size_t>(item)]));
    const exec::LaneStats& weights = result.stats.lanes[static_cast<size_t>(exec::Lane::kWeightLoad)];
    run->weights_s += static_cast<double>(weights.busy_ns) / 1e9;
    run->weight_bytes += weights.bytes;
    return absl::OkStatus();
  }

  absl::Status Step(exec::Schedule schedule, bool one_batch, StreamedRun* run) {
    const int32_t first = one_batch ? options_.items : 0;
    const int32_t end = one_batch ? options_.items + 1 : options_.items;
    if (schedule == exec::Schedule::kColumn) {
      for (int32_t i = first; i < end; ++i) Begin(i, schedule);
      for (int32_t layer = 0; layer < executor_->n_layers(); ++layer) {
        for (int32_t i = first; i < end; ++i) {
          SPILLWAY_RETURN_IF_ERROR(executor_->Visit(*items_[static_cast<size_t>(i)]));
        }
      }
      for (int32_t i = first; i < end; ++i) SPILLWAY_RETURN_IF_ERROR(Finish(i, run));
      return absl::OkStatus();
    }
    for (int32_t i = first; i < end; ++i) {
      Begin(i, schedule);
      exec::WorkItem& item = *items_[static_cast<size_t>(i)];
      while (!item.done()) SPILLWAY_RETURN_IF_ERROR(executor_->Visit(item));
      SPILLWAY_RETURN_IF_ERROR(Finish(i, run));
    }
    return absl::OkStatus();
  }

  const StreamedOptions options_;
  bool warm_ = false;
  std::unique_ptr<device::Device> device_;
  model::Model model_;
  std::unique_ptr<kv::HostPool> pool_;
  std::unique_ptr<kv::BlockStore> blocks_;
  std::unique_ptr<exec::LinkExecutor> executor_;
  std::vector<std::unique_ptr<exec::WorkItem>> items_;  // the last: of all sequences
  std::vector<kv::BlockId> tables_;
  std::vector<exec::Segment> segments_;
};

}  // namespace

double StreamedRun::step_s() const { return Median(wall_s); }

absl::StatusOr<StreamedResult> MeasureStreamed(const StreamedOptions& options,
                                               const std::atomic<bool>& stop) {
  SPILLWAY_CHECK(options.context % kBlockTokens == 0 && options.context > 0);
  SPILLWAY_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Create(options));
  StreamedResult result;
  result.pass_bytes = session->pass_bytes();
  result.device_bytes = session->device_bytes();
  SPILLWAY_ASSIGN_OR_RETURN(result.column, session->Measure("column of items", exec::Schedule::kColumn, false,
                                                            options.steps, stop));
  SPILLWAY_ASSIGN_OR_RETURN(result.one_batch, session->Measure("row, one batch of all", exec::Schedule::kRow,
                                                               true, options.steps, stop));
  SPILLWAY_ASSIGN_OR_RETURN(result.row, session->Measure("row, items one by one", exec::Schedule::kRow, false,
                                                         options.row_steps, stop));
  return result;
}

void ReportStreamed(const StreamedOptions& options, const StreamedResult& result, SplitReport& report) {
  report.Section(absl::StrFormat(
      "weights streamed, %s a pass, %d items of %d sequences of %d cached tokens, link %.0f MB/s (emulated)",
      FormatBytes(result.pass_bytes), options.items, options.sequences, options.context,
      options.link_bytes_per_s / 1e6));
  report.Line("schedule                  ms a step   weights loaded   link busy with them");
  nlohmann::json rows = nlohmann::json::array();
  for (const StreamedRun* run : {&result.column, &result.one_batch, &result.row}) {
    report.Line(absl::StrFormat("%-24s %10.1f %16s %19.1f %%", run->name, run->step_s() * 1e3,
                                FormatBytes(run->weight_bytes), run->weights_s / run->wall_s.back() * 100));
    rows.push_back({{"schedule", run->name},
                    {"weight_bytes", run->weight_bytes},
                    {"weights_busy_s", run->weights_s},
                    {"step_s", run->wall_s}});
  }
  report["streamed"] = {{"items", options.items},
                        {"sequences", options.sequences},
                        {"context", options.context},
                        {"link_mb_per_s", options.link_bytes_per_s / 1e6},
                        {"pass_bytes", result.pass_bytes},
                        {"device_bytes", result.device_bytes},
                        {"rows", rows}};
  report.Ratio("column_over_row_streamed", result.column_over_row());
  report.Ratio("column_over_one_batch_streamed", result.one_batch.step_s() / result.column.step_s());
}

}  // namespace spillway::bench
