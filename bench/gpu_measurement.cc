#include "bench/gpu_measurement.h"

#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "bench/shaped_model.h"
#include "profiler/robust_median.h"

namespace spillway::bench {
namespace {

using device::Encoding;
using profiler::Median;

constexpr absl::string_view kMemory = "memory_bytes_per_s";
constexpr absl::string_view kPinned = "pinned_copy_in_bytes_per_s";
constexpr absl::string_view kProduct = "product_flop_per_s";

constexpr int32_t kWarmUpSteps = 3;
constexpr int32_t kPrompts = 3;

// What a smaller machine, or one that is busy, may say to a measurement; the rest can go on.
bool IsNoRoom(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsFailedPrecondition(status);
}

std::string NameOfMatrices(Encoding encoding) {
  return encoding == Encoding::kBF16 ? "bf16" : std::string(device::InfoOf(encoding).name);
}

double LayersSeconds(const exec::StepStats& stats) {
  const exec::LaneStats& compute = stats.lanes[static_cast<size_t>(exec::Lane::kCompute)];
  return ToSeconds(compute.busy_ns - stats.head_ns);
}

double ElapsedSeconds(const std::vector<exec::StepStats>& steps) {
  return ToSeconds(steps.back().begin_ns + steps.back().wall_ns - steps.front().begin_ns);
}

// Of one layer.
int64_t MatrixBytes(const model::LayerWeights& layer) {
  return layer.qkv.size_bytes + layer.attention_output.size_bytes + layer.up.size_bytes +
         layer.down.size_bytes;
}

std::string Sequences(int32_t n) { return absl::StrCat(n, n == 1 ? " sequence" : " sequences"); }

}  // namespace

GpuMeasurement::GpuMeasurement(device::Device& device, const GpuShape& shape, double budget_s,
                               const std::atomic<bool>& stop, std::ostream& progress)
    : device_(device),
      shape_(shape),
      until_ns_(Clock::Real().NowNs() + static_cast<MonotonicNs>(budget_s * 1e9)),
      stop_(stop),
      progress_(progress) {
  json_ = {{"peaks", nlohmann::json::object()},
           {"operations", nlohmann::json::array()},
           {"models", nlohmann::json::array()}};
}

bool GpuMeasurement::IsOver() const { return stop_.load() || Clock::Real().NowNs() >= until_ns_; }

void GpuMeasurement::Progress(absl::string_view what) { progress_ << "  " << what << "\n" << std::flush; }

absl::Status GpuMeasurement::Add(GpuTarget target, absl::FunctionRef<absl::Status(GpuTarget&)> measure) {
  absl::Status status;
  if (IsOver()) {
    target.of = stop_.load() ? "stopped" : "no time is left";
  } else {
    Progress(target.what);
    status = measure(target);
    if (!status.ok()) {
      target.measured.reset();
      target.whole.reset();
      target.of = std::string(status.message());
    }
  }
  targets_.push_back(std::move(target));
  // A device in error says so of everything that comes.
  if (!device_.status().ok()) return device_.status();
  return IsNoRoom(status) ? absl::OkStatus() : status;
}

double GpuMeasurement::PeakOf(absl::string_view peak) const {
  const auto found = peaks_.find(peak);
  return found == peaks_.end() ? 0 : found->second;
}

absl::StatusOr<double> GpuMeasurement::ShareOf(absl::string_view peak, double work, double seconds) const {
  if (PeakOf(peak) <= 0) {
    return absl::FailedPreconditionError(absl::StrCat("of what is not known: ", peak, " was not measured"));
  }
  return ShareOfRate(work, seconds, PeakOf(peak));
}

// ------------------------------------------------------------------------------------------- Operations

absl::Status GpuMeasurement::MeasurePeaks(GpuOperations& operations) {
  const auto measure = [&](absl::string_view name, absl::FunctionRef<absl::StatusOr<double>()> of) {
    if (IsOver()) return absl::OkStatus();
    Progress(absl::StrCat("peak: ", name));
    const absl::StatusOr<double> rate = of();
    json_["peaks"][std::string(name)] = rate.ok() ? nlohmann::json(*rate) : nlohmann::json(nullptr);
    if (rate.ok()) peaks_.emplace(name, *rate);
    if (!rate.ok()) Progress(rate.status().message());
    return rate.ok() || IsNoRoom(rate.status()) ? absl::OkStatus() : rate.status();
  };
  SPILLWAY_RETURN_IF_ERROR(measure(kMemory, [&] { return operations.MemoryBytesPerS(); }));
  SPILLWAY_RETURN_IF_ERROR(measure(kPinned, [&] { return operations.PinnedBytesPerS(); }));
  return measure(kProduct, [&] { return operations.ProductFlopPerS(); });
}

absl::Status GpuMeasurement::AddRebuild(GpuOperations& operations, const std::string& what, int64_t d,
                                        int64_t d_q, int64_t d_kv) {
  const int32_t rows =
      shape_.ChunkTokens(static_cast<int32_t>(d), device::SizeOf(device_.info().compute_dtype));
  GpuTarget target;
  target.name = absl::StrFormat("rebuild_%d_%d", 2 * d_kv, d);
  target.what = absl::StrFormat("rebuild, %s: %d rows, n %d, k %d", what, rows, 2 * d_kv, d);
  target.asked = 0.85;
  return Add(std::move(target), [&](GpuTarget& measured) {
    SPILLWAY_ASSIGN_OR_RETURN(const double seconds, operations.RebuildSeconds(rows, d, d_q, d_kv));
    const double flop = 2.0 * rows * static_cast<double>(2 * d_kv * d);
    json_["operations"].push_back({{"name", measured.name},
                                   {"rows", rows},
                                   {"n", 2 * d_kv},
                                   {"k", d},
                                   {"seconds", seconds},
                                   {"flop", flop}});
    SPILLWAY_ASSIGN_OR_RETURN(measured.measured, ShareOf(kProduct, flop, seconds));
    measured.of = absl::StrFormat("%s, the product of %d x %d x %d", FormatRate(PeakOf(kProduct), "FLOP"),
                                  shape_.product, shape_.product, shape_.product);
    return absl::OkStatus();
  });
}

absl::Status GpuMeasurement::AddAttention(GpuOperations& operations, int32_t sequences, int32_t context) {
  GpuTarget target;
  target.name = absl::StrFormat("attention_%d_%d", sequences, context);
  target.what = absl::StrFormat("decode attention, %s of %d tokens", Sequences(sequences), context);
  target.asked = 0.7;
  return Add(std::move(target), [&](GpuTarget& measured) {
    SPILLWAY_ASSIGN_OR_RETURN(const double seconds, operations.DecodeAttentionSeconds(sequences, context));
    const int64_t bytes = operations.AttentionBytes(sequences, context);
    json_["operations"].push_back({{"name", measured.name},
                                   {"sequences", sequences},
                                   {"context_tokens", context},
                                   {"seconds", seconds},
                                   {"bytes", bytes}});
    SPILLWAY_ASSIGN_OR_RETURN(measured.measured, ShareOf(kMemory, static_cast<double>(bytes), seconds));
    measured.of = absl::StrCat("device memory's ", FormatRate(PeakOf(kMemory), "B"), ", copies within");
    return absl::OkStatus();
  });
}

absl::Status GpuMeasurement::MeasureOperations() {
  SPILLWAY_ASSIGN_OR_RETURN(const auto operations, GpuOperations::Create(device_, shape_));
  SPILLWAY_RETURN_IF_ERROR(MeasurePeaks(*operations));
  SPILLWAY_RETURN_IF_ERROR(
      AddRebuild(*operations, "grouped queries", shape_.d_model, shape_.d_q(), shape_.d_kv()));
  SPILLWAY_RETURN_IF_ERROR(
      AddRebuild(*operations, "multi-head", shape_.wide_d_model, shape_.wide_d_model, shape_.wide_d_model));
  for (const int32_t sequences : shape_.attention_sequences) {
    for (const int32_t context : shape_.attention_contexts) {
      SPILLWAY_RETURN_IF_ERROR(AddAttention(*operations, sequences, context));
    }
  }
  return absl::OkStatus();
}

// ------------------------------------------------------------------------------------------------ Steps

absl::StatusOr<model::Model> GpuMeasurement::Load(Encoding matrices, device::WeightMode mode,
                                                  int32_t layers) {
  model::WeightOptions options;
  options.mode = mode;
  return LoadShapedModel(ConfigJson(shape_, layers), device_, options, matrices);
}

absl::Status GpuMeasurement::AddDecode(GpuSession* session, LoadedModel& loaded, int32_t batch) {
  GpuTarget target;
  target.name = absl::StrCat("decode_", absl::AsciiStrToLower(loaded.encoding), "_", batch);
  target.what = absl::StrFormat("decode step, %s, %s", loaded.encoding, Sequences(batch));
  target.asked = 0.7;
  return Add(std::move(target), [&](GpuTarget& measured) {
    if (session == nullptr) return why_no_session_;
    SPILLWAY_RETURN_IF_ERROR(session->Decode(batch, std::min(kWarmUpSteps, shape_.steps)).status());
    SPILLWAY_ASSIGN_OR_RETURN(const std::vector<exec::StepStats> steps, session->Decode(batch, shape_.steps));
    std::vector<double> walls_s, layers_s, heads_s;
    for (const exec::StepStats& stats : steps) {
      walls_s.push_back(ToSeconds(stats.wall_ns));
      layers_s.push_back(LayersSeconds(stats));
      heads_s.push_back(ToSeconds(stats.head_ns));
    }
    const model::ModelConfig& config = loaded.model.config;
    const PassTime pass{Median(walls_s), Median(layers_s), config.n_layers};
    const int64_t weight_bytes = loaded.model.weights->read_bytes_per_step();
    const int64_t layer_bytes = MatrixBytes(loaded.model.weights->layers().front());
    const int64_t reads = steps[steps.size() / 2].reads_tokens;  // one row a sequence: the keys it reads
    const int64_t kv_bytes = reads * KvBytesPerToken(config, device::SizeOf(device_.info().compute_dtype));
    const auto bytes = static_cast<double>(weight_bytes + kv_bytes);
    const int32_t more = shape_.whole_layers - config.n_layers;
    const double whole_bytes =
        bytes + more * (static_cast<double>(layer_bytes) + static_cast<double>(kv_bytes) / config.n_layers);
    const double whole_s = pass.SecondsWith(shape_.whole_layers);
    (*loaded.json)["decode"].push_back({{"batch", batch},
                                        {"step_s", walls_s},
                                        {"layers_s", pass.layers_s},
                                        {"head_s", Median(heads_s)},
                                        {"weight_bytes", weight_bytes},
                                        {"kv_bytes", kv_bytes},
                                        {"tokens_per_s", batch / pass.step_s},
                                        {"estimated_step_s", whole_s},
                                        {"estimated_bytes", whole_bytes}});
    if (batch == shape_.batches.front()) {
      decode_rates_[loaded.encoding] = {batch / pass.step_s, batch / whole_s};
    }
    SPILLWAY_ASSIGN_OR_RETURN(measured.measured, ShareOf(kMemory, bytes, pass.step_s));
    measured.whole = ShareOfRate(whole_bytes, whole_s, PeakOf(kMemory));
    measured.of = absl::StrFormat("the time to read %s of weights and keys; %.2f ms a step",
                                  FormatBytes(static_cast<int64_t>(bytes)), pass.step_s * 1e3);
    return absl::OkStatus();
  });
}

absl::Status GpuMeasurement::AddPrefill(GpuSession* session, LoadedModel& loaded, int32_t piece_rows) {
  GpuTarget target;
  target.name = absl::StrCat("prefill_", absl::AsciiStrToLower(loaded.encoding), "_", piece_rows);
  target.what =
      absl::StrFormat("prefill of %d, %s, visits of %d rows", shape_.prompt, loaded.encoding, piece_rows);
  target.asked = 0.4;
  return Add(std::move(target), [&](GpuTarget& measured) {
    if (session == nullptr) return why_no_session_;
    std::vector<double> prompts_s, layers_s;
    for (int32_t i = 0; i <= kPrompts; ++i) {
      SPILLWAY_ASSIGN_OR_RETURN(const std::vector<exec::StepStats> pieces, session->Prefill(piece_rows));
      if (i == 0) continue;  // warms up
      prompts_s.push_back(ElapsedSeconds(pieces));
      layers_s.push_back(0);
      for (const exec::StepStats& stats : pieces) layers_s.back() += LayersSeconds(stats);
    }
    model::ModelConfig config = loaded.model.config;
    const PassTime pass{Median(prompts_s), Median(layers_s), config.n_layers};
    const PromptFlop flop = FlopOfPrompt(config, shape_.prompt);
    config.n_layers = shape_.whole_layers;
    const double whole_flop = FlopOfPrompt(config, shape_.prompt).total();
    const double whole_s = pass.SecondsWith(shape_.whole_layers);
    (*loaded.json)["prefill"].push_back({{"tokens", shape_.prompt},
                                         {"visit_rows", piece_rows},
                                         {"seconds", prompts_s},
                                         {"layers_s", pass.layers_s},
                                         {"linear_flop", flop.linear},
                                         {"attention_flop", flop.attention},
                                         {"estimated_seconds", whole_s},
                                         {"estimated_flop", whole_flop}});
    SPILLWAY_ASSIGN_OR_RETURN(measured.measured, ShareOf(kProduct, flop.total(), pass.step_s));
    measured.whole = ShareOfRate(whole_flop, whole_s, PeakOf(kProduct));
    measured.of =
        absl::StrFormat("%s, the large product; %.0f %% without attention's FLOP; %.1f ms",
                        FormatRate(PeakOf(kProduct), "FLOP"),
                        100 * ShareOfRate(flop.linear, pass.step_s, PeakOf(kProduct)), pass.step_s * 1e3);
    return absl::OkStatus();
  });
}

absl::Status GpuMeasurement::AddCarried(LoadedModel& loaded) {
  const int32_t batch = shape_.batches.back();
  GpuTarget target;
  target.name = "link_carried";
  target.what = absl::StrFormat("link, decode step of %s, all carried", Sequences(batch));
  target.asked = 0.9;
  return Add(std::move(target), [&](GpuTarget& measured) {
    SPILLWAY_ASSIGN_OR_RETURN(const auto session,
                              GpuSession::Create(device_, loaded.model, shape_, CachePlace::kHost));
    SPILLWAY_RETURN_IF_ERROR(session->Decode(batch, 2).status());
    SPILLWAY_ASSIGN_OR_RETURN(const std::vector<exec::StepStats> steps,
                              session->Decode(batch, shape_.carried_steps));
    int64_t bytes = 0, busy_ns = 0;
    for (const exec::StepStats& stats : steps) {
      const exec::LaneStats& lane = stats.lanes[static_cast<size_t>(exec::Lane::kKvLoad)];
      bytes += lane.bytes;
      busy_ns += lane.busy_ns;
    }
    // Chunks that come ahead for the next step count there, so that the whole row is what is right.
    const double elapsed_s = ElapsedSeconds(steps);
    const double busy = ToSeconds(busy_ns) / elapsed_s;
    (*loaded.json)["carried"] = {{"batch", batch},        {"context_tokens", shape_.context},
                                 {"steps", steps.size()}, {"seconds", elapsed_s},
                                 {"bytes", bytes},        {"link_busy_share", busy}};
    SPILLWAY_ASSIGN_OR_RETURN(measured.measured, ShareOf(kPinned, static_cast<double>(bytes), elapsed_s));
    measured.of = absl::StrFormat("%s, page-locked copies of %s%s; link busy %.0f %%",
                                  FormatRate(PeakOf(kPinned), "B"), FormatBytes(shape_.link_bytes),
                                  device_.info().emulated_link ? " over an EMULATED link" : "", 100 * busy);
    return absl::OkStatus();
  });
}

absl::Status GpuMeasurement::MeasureModel(Encoding matrices, int32_t layers) {
  LoadedModel loaded;
  loaded.encoding = NameOfMatrices(matrices);
  // The CPU does not multiply packed weights.
  const device::TensorView probe{"probe", matrices, {256, 256}, nullptr, 0};
  const bool packs = device_.PlanMatrix({&probe, 1}, device::WeightMode::kPacked).ok();
  const device::WeightMode mode = packs ? device::WeightMode::kPacked : device::WeightMode::kExpanded;
  json_["models"].push_back({{"encoding", loaded.encoding}, {"packed", packs}, {"layers", layers}});
  loaded.json = &json_["models"].back();

  std::unique_ptr<GpuSession> session;
  why_no_session_ = absl::OkStatus();
  if (layers == 0) {
    why_no_session_ = absl::ResourceExhaustedError(
        absl::StrCat("the device's memory holds no layer and its cache: ",
                     FormatBytes(device_.info().memory_bytes - device_.allocated_bytes()), " are free"));
  } else if (!IsOver()) {
    Progress(absl::StrFormat("a model of %d layers, random weights in %s", layers, loaded.encoding));
    const MonotonicNs begin_ns = Clock::Real().NowNs();
    absl::StatusOr<model::Model> model = Load(matrices, mode, layers);
    why_no_session_ = model.status();
    if (model.ok()) {
      loaded.model = std::move(model).value();
      (*loaded.json)["load_s"] = ToSeconds(Clock::Real().NowNs() - begin_ns);
      (*loaded.json)["weight_bytes"] = loaded.model.weights->allocated_bytes();
      auto created = GpuSession::Create(device_, loaded.model, shape_, CachePlace::kDevice);
      why_no_session_ = created.status();
      if (created.ok()) {
        session = std::move(created).value();
        why_no_session_ = session->FillContexts();
      }
    }
    if (!why_no_session_.ok() && !IsNoRoom(why_no_session_)) return why_no_session_;
    if (!why_no_session_.ok()) session.reset();
  }
  for (const int32_t batch : shape_.batches) {
    SPILLWAY_RETURN_IF_ERROR(AddDecode(session.get(), loaded, batch));
  }
  for (const int32_t rows : shape_.piece_rows) {
    SPILLWAY_RETURN_IF_ERROR(AddPrefill(session.get(), loaded, rows));
  }
  const bool has_model = loaded.model.weights != nullptr;
  session.reset();
  if (matrices != Encoding::kBF16 || !has_model) return absl::OkStatus();
  return AddCarried(loaded);
}

absl::Status GpuMeasurement::AddRatio() {
  GpuTarget target;
  target.name = "decode_q4_k_over_bf16";
  target.what = "tokens/s, Q4_K over bf16, 1 sequence";
  target.kind = GpuTarget::Kind::kRatio;
  target.asked = 2;
  return Add(std::move(target), [&](GpuTarget& measured) {
    const auto bf16 = decode_rates_.find("bf16"), packed = decode_rates_.find("Q4_K");
    if (bf16 == decode_rates_.end() || packed == decode_rates_.end()) {
      return absl::FailedPreconditionError("one of the two was not measured");
    }
    measured.measured = packed->second.measured / bf16->second.measured;
    measured.whole = packed->second.whole / bf16->second.whole;
    measured.of = absl::StrFormat("%.1f tokens/s; as %d layers about %.0f and %.0f", bf16->second.measured,
                                  shape_.whole_layers, packed->second.whole, bf16->second.whole);
    return absl::OkStatus();
  });
}

absl::Status GpuMeasurement::Measure() {
  absl::Status status = MeasureOperations();
  if (!status.ok() && !IsNoRoom(status)) return status;
  // The same for both encodings, so that they compare.
  const int64_t free_bytes = device_.info().memory_bytes - device_.allocated_bytes();
  const int64_t element_bytes = device::SizeOf(device_.info().compute_dtype);
  const int32_t layers =
      LayersThatFit(shape_, element_bytes == 4 ? Encoding::kF32 : Encoding::kBF16, element_bytes, free_bytes);
  if (layers < shape_.layers) {
    Progress(absl::StrFormat("%d of %d layers: the device has no memory for more", layers, shape_.layers));
  }
  SPILLWAY_RETURN_IF_ERROR(MeasureModel(Encoding::kBF16, layers));
  SPILLWAY_RETURN_IF_ERROR(MeasureModel(Encoding::kQ4_K, layers));
  return AddRatio();
}

}  // namespace spillway::bench
