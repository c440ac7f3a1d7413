#include "server/engine.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/small_file.h"
#include "base/status_macros.h"
#include "engine/model/hugging_face_config.h"
#include "server/executor_setup.h"
#include "server/planner_setup.h"
#include "server/pool_setup.h"

namespace spillway::server {
namespace {

// Prompt and answer of the warm-up: a prefill, and a few decode steps.
constexpr int32_t kWarmUpPromptTokens = 12;
constexpr int32_t kWarmUpTokens = 4;

// A generation default of the model, where it is one that a request could ask for as well.
void TakeDefault(const model::GenerationDefault& stated, float min, float max, float* target) {
  if (!stated.value.has_value()) return;
  if (*stated.value >= min && *stated.value <= max) {
    *target = static_cast<float>(*stated.value);
  } else {
    Log(LogLevel::kWarning, "generation default of the model file is out of range and passed over",
        {{"key", stated.key}, {"allowed", absl::StrCat(min, "..", max)}});
  }
}

scheduler::SamplingParams SamplingOf(const model::GenerationDefaults& defaults) {
  scheduler::SamplingParams out;
  float top_k = static_cast<float>(out.top_k);
  TakeDefault(defaults.top_k, 0, 1 << 20, &top_k);
  out.top_k = static_cast<int32_t>(top_k);
  TakeDefault(defaults.temperature, 0, 100, &out.temperature);
  TakeDefault(defaults.top_p, 1e-6F, 1, &out.top_p);
  TakeDefault(defaults.min_p, 0, 1, &out.min_p);
  TakeDefault(defaults.repetition_penalty, 1e-6F, 10, &out.repetition_penalty);
  return out;
}

// Says how far loading is, at most once a second. Called one at a time, from several threads.
class LoadProgress {
 public:
  void Report(int64_t done_bytes, int64_t total_bytes) {
    const MonotonicNs now_ns = Clock::Real().NowNs();
    if (done_bytes < total_bytes && now_ns - last_ns_ < kNsPerSecond) return;
    last_ns_ = now_ns;
    const int64_t percent = total_bytes > 0 ? done_bytes * 100 / total_bytes : 100;
    Log(LogLevel::kInfo, "loading weights",
        {{"percent", percent}, {"done", FormatBytes(done_bytes)}, {"total", FormatBytes(total_bytes)}});
  }

 private:
  MonotonicNs last_ns_ = Clock::Real().NowNs();
};

// The model's own template, or what --chat_template puts in its place.
absl::StatusOr<std::optional<text::ChatTemplate>> ReadChatTemplate(const Settings& settings,
                                                                   std::string source) {
  std::string origin = absl::StrCat(settings.model_path(), ": tokenizer.chat_template");
  if (settings.chat_template == "none") return std::nullopt;
  if (!settings.chat_template.empty()) {
    origin = absl::StrCat("--chat_template=", settings.chat_template);
    absl::StatusOr<std::string> text = ReadSmallFile(settings.chat_template);
    if (!text.ok() || text->empty()) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": ",
                                                     text.ok() ? "is empty" : text.status().message(),
                                                     "; give a template, or none to serve without chat"));
    }
    source = *std::move(text);
  }
  if (source.empty()) return std::nullopt;
  absl::StatusOr<text::ChatTemplate> parsed = text::ChatTemplate::Parse(source);
  if (parsed.ok()) return *std::move(parsed);
  return absl::Status(
      parsed.status().code(),
      absl::StrCat(origin, ": ", parsed.status().message(),
                   "; give another template with --chat_template=FILE, or none to serve without chat"));
}

// Wakes the thread that waits for the warm-up. Shared with the stream, which may outlive a wait that timed
// out.
class WakeUp {
 public:
  void Notify() {
    MutexLock lock(mutex_);
    notified_ = true;
    changed_.NotifyOne();
  }
  // False when `timeout` passed.
  bool Wait(std::chrono::nanoseconds timeout) {
    MutexLock lock(mutex_);
    if (!notified_) changed_.WaitFor(mutex_, timeout);
    return std::exchange(notified_, false);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool notified_ ABSL_GUARDED_BY(mutex_) = false;
};

// How much smaller batches could spare of the device at most: other remedies are needed where that is less
// than what is missing. Empty where they spare nothing.
std::string SmallerBatchesSpare(const Settings& settings, int32_t context_tokens,
                                const device::DeviceInfo& info, const model::ModelConfig& config) {
  Settings least = settings;
  least.max_sequences = 1;
  least.prefill_rows = std::min<int64_t>(settings.prefill_rows, kPrefillRowsMin);
  least.prefill_chunk_tokens = std::min<int64_t>(settings.prefill_chunk_tokens, kPrefillChunkTokensMin);
  const int64_t spared_bytes = DeviceBytesBesideWeights(settings, context_tokens, info, config) -
                               DeviceBytesBesideWeights(least, context_tokens, info, config);
  if (spared_bytes <= 0) return "";
  return absl::StrCat("; smaller --max_sequences, --prefill_rows and --prefill_chunk_tokens spare up to ",
                      FormatBytes(spared_bytes));
}

}  // namespace

absl::Status CheckChatTemplate(const Settings& settings) {
  return ReadChatTemplate(settings, /*source=*/"").status();
}

absl::StatusOr<ModelHeader> ReadModelHeader(const Settings& settings) {
  ModelHeader header;
  if (!settings.random_weights.empty()) {
    SPILLWAY_ASSIGN_OR_RETURN(header.config, model::ReadHuggingFaceConfig(settings.random_weights));
    return header;
  }
  SPILLWAY_ASSIGN_OR_RETURN(model::ModelHeader read, model::ReadModelHeader(settings.model));
  header.config = std::move(read.config);
  header.sampling = SamplingOf(read.defaults);
  return header;
}

absl::StatusOr<int32_t> ContextTokens(const Settings& settings, const ModelHeader& header) {
  const int32_t trained = header.config.context_length;
  if (settings.context_tokens > trained) {
    return absl::InvalidArgumentError(absl::StrCat("--context=", settings.context_tokens, ": ",
                                                   settings.model_path(), " was made for ", trained,
                                                   " tokens; use at most that, or 0"));
  }
  const auto tokens = static_cast<int32_t>(settings.context_tokens > 0 ? settings.context_tokens : trained);
  if (tokens < 2) {
    return absl::InvalidArgumentError(absl::StrCat("--context=", tokens, ": at least 2 tokens are needed"));
  }
  return tokens;
}

absl::StatusOr<model::Model> LoadServedModel(const Settings& settings, const ModelHeader& header,
                                             device::Device& device) {
  LoadProgress progress;
  SPILLWAY_ASSIGN_OR_RETURN(const int32_t context_tokens, ContextTokens(settings, header));
  if (settings.weights_on == "host" && device.info().host_addressable) {
    return absl::InvalidArgumentError(
        "--weights_on=host: this device's memory is the host's, so nothing would be streamed; use auto");
  }
  model::WeightOptions options;
  options.mode = settings.weights == "packed"     ? device::WeightMode::kPacked
                 : settings.weights == "expanded" ? device::WeightMode::kExpanded
                                                  : device::WeightMode::kAuto;
  options.layers_on = settings.weights_on == "host"     ? model::WeightPlace::kHost
                      : settings.weights_on == "device" ? model::WeightPlace::kDevice
                                                        : model::WeightPlace::kAuto;
  if (!device.info().host_addressable) {
    options.reserve = [&](int64_t memory_bytes) {
      device::DeviceInfo info = device.info();
      info.memory_bytes = memory_bytes;
      return DeviceBytesBesideWeights(settings, context_tokens, info, header.config);
    };
  }
  options.numa_node = HostNumaNode(settings, device.info());
  options.progress = [&progress](int64_t done, int64_t total) { progress.Report(done, total); };
  if (!settings.random_weights.empty()) {
    Log(LogLevel::kWarning, "RANDOM WEIGHTS: what is generated means nothing; token ids only, no text",
        {{"shape", settings.random_weights}, {"seed", settings.random_seed}});
  }
  absl::StatusOr<model::Model> loaded =
      settings.random_weights.empty()
          ? model::LoadModel(settings.model, device, options)
          : model::LoadRandomModel(settings.random_weights, static_cast<uint64_t>(settings.random_seed),
                                   device, options);
  if (absl::IsResourceExhausted(loaded.status()) && !device.info().host_addressable) {
    return absl::Status(
        loaded.status().code(),
        absl::StrCat("--device_memory: ", loaded.status().message(),
                     SmallerBatchesSpare(settings, context_tokens, device.info(), header.config)));
  }
  SPILLWAY_RETURN_IF_ERROR(loaded.status());
  if (settings.random_weights.empty() && !loaded->why_no_text.empty()) {
    Log(LogLevel::kWarning, "NO TOKENIZER: the model takes and gives token ids only",
        {{"reason", loaded->why_no_text}});
  }
  const model::ModelWeights& weights = *loaded->weights;
  Log(LogLevel::kInfo, "weights loaded",
      {{"packed", FormatBytes(weights.packed_bytes())},
       {device::NameOf(device.info().compute_dtype), FormatBytes(weights.plain_bytes())}});
  if (weights.layers_on_host()) {
    Log(LogLevel::kWarning,
        "the layers' weights lie on the host: each step loads them over the link, a layer at a time",
        {{"layers", FormatBytes(weights.host_bytes())},
         {"a_layer", FormatBytes(weights.largest_layer_bytes())},
         {"device_memory", FormatBytes(device.info().memory_bytes)}});
  }
  return loaded;
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Load(const Settings& settings, const ModelHeader& header,
                                                     device::Device& device, scheduler::Observer& observer) {
  auto engine = std::unique_ptr<Engine>(new Engine());
  SPILLWAY_ASSIGN_OR_RETURN(const int32_t context_tokens, ContextTokens(settings, header));
  SPILLWAY_ASSIGN_OR_RETURN(engine->loaded_, LoadServedModel(settings, header, device));
  const std::vector<uint8_t> fingerprint(engine->loaded_.fingerprint.begin(),
                                         engine->loaded_.fingerprint.end());
  SPILLWAY_RETURN_IF_ERROR(engine->DescribeModel(settings, header, device));
  absl::StatusOr<std::unique_ptr<text::Tokenizer>> tokenizer =
      text::Tokenizer::Create(std::move(engine->loaded_.vocabulary));
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(settings.model_path(), ": ", tokenizer.status().message(),
                                     "; the file's tokenizer cannot be served, convert the model anew"));
  }
  engine->model_.tokenizer = *std::move(tokenizer);
  for (text::TokenId id = 0; id < engine->model_.tokenizer->vocab_size(); ++id) {
    const auto size = static_cast<int32_t>(engine->model_.tokenizer->TokenBytes(id).size());
    engine->model_.longest_token_bytes = std::max(engine->model_.longest_token_bytes, size);
  }
  engine->start_times_.Ended("model");
  // Before the pool: its pages are touched in the background, which would be measured too.
  SPILLWAY_ASSIGN_OR_RETURN(engine->obtained_profile_, ObtainProfile(settings, device, engine->loaded_));
  engine->start_times_.Ended("profile");
  SPILLWAY_ASSIGN_OR_RETURN(engine->pool_, CreatePool(settings, context_tokens, engine->loaded_, device));
  SPILLWAY_RETURN_IF_ERROR(engine->PlanForPageableMemory(settings, device));
  engine->start_times_.Ended("pool");
  SPILLWAY_ASSIGN_OR_RETURN(const kv::FormPolicy forms, FormPolicyOf(settings));
  engine->blocks_ = std::make_unique<kv::BlockStore>(*engine->pool_, forms);
  const int64_t weights_bytes = device.allocated_bytes();

  SPILLWAY_ASSIGN_OR_RETURN(engine->executor_,
                            CreateExecutor(settings, context_tokens, device, engine->loaded_, *engine->pool_,
                                           *engine->blocks_, engine->timeline_));
  if (engine->profile().has_value()) {
    engine->plan_solver_ = std::make_unique<scheduler::PlanSolver>(*engine->profile());
  }
  if (engine->plan_solver_ != nullptr && engine->executor_->splits()) {
    SPILLWAY_ASSIGN_OR_RETURN(engine->planner_,
                              CreatePlanner(settings, *engine->plan_solver_, *engine->pool_));
  }
  scheduler::SchedulerOptions options;
  options.context_tokens = context_tokens;
  options.max_sequences = static_cast<int32_t>(settings.max_sequences);
  options.batch_sequences = static_cast<int32_t>(settings.batch_sequences);
  options.max_queue = static_cast<int32_t>(settings.max_queue);
  options.prefill_rows = static_cast<int32_t>(settings.prefill_rows);
  options.max_gap_ms = static_cast<double>(settings.max_gap_ms);
  options.reserve_output_tokens = static_cast<int32_t>(settings.reserve_output_tokens);
  options.slow_reader_timeout_ms = settings.slow_reader_timeout_ms;
  SPILLWAY_ASSIGN_OR_RETURN(const scheduler::PlanModes modes, ReadPlanModes(settings));
  options.schedule = modes.schedule;
  options.throughput_share = static_cast<double>(settings.throughput_share_percent) / 100;
  options.prefix_cache = engine->model_.prefix_cache;
  options.model_fingerprint = fingerprint;
  SPILLWAY_ASSIGN_OR_RETURN(engine->scheduler_,
                            scheduler::Scheduler::Create(
                                {*engine->executor_, *engine->blocks_, engine->pool_->geometry(),
                                 *engine->model_.tokenizer, Clock::Real(), observer, engine->planner_.get()},
                                options));
  if (engine->planner_ != nullptr) {
    // Known now that every work item is there.
    engine->planner_->SetResidencyBytes(static_cast<double>(engine->executor_->residency_bytes()));
  }

  engine->model_.context_tokens = engine->scheduler_->max_sequence_tokens();
  if (engine->model_.context_tokens < context_tokens) {
    Log(LogLevel::kWarning,
        "context clamped to what the KV pool holds for one sequence; --host_pool raises it",
        {{"context_tokens", engine->model_.context_tokens}, {"asked_tokens", context_tokens}});
  }
  const std::string place = device.info().host_addressable ? "host" : "device";
  const exec::Executor& executor = *engine->executor_;
  const auto add = [&engine](const std::string& where, const std::string& use, int64_t bytes) {
    if (bytes > 0) engine->memory_.push_back({where, use, bytes});
  };
  add(place, "weights", weights_bytes + executor.weight_slots_bytes());
  add("host", "weights", engine->loaded_.weights->host_bytes());
  add("host", "kv_pool", engine->pool_->size_bytes());
  add(place, "kv_cache", executor.cache_bytes());
  add(place, "staging", executor.staging_bytes());
  add(place, "scratch",
      device.allocated_bytes() - weights_bytes - executor.weight_slots_bytes() - executor.cache_bytes() -
          executor.staging_bytes());
  scheduler::ServedMemory& served = engine->served_memory_;
  served.device_memory_bytes = static_cast<double>(device.info().memory_bytes);
  served.host_pool_bytes = static_cast<double>(engine->pool_->size_bytes());
  if (executor.splits()) served.residency_bytes = static_cast<double>(executor.residency_bytes());
  served.streams_weights = engine->loaded_.weights->host_bytes() > 0;
  engine->start_times_.Ended("executor");
  return engine;
}

Engine::~Engine() = default;

absl::Status Engine::PlanForPageableMemory(const Settings& settings, device::Device& device) {
  if (device.info().host_addressable) return absl::OkStatus();
  const model::ModelWeights& weights = *loaded_.weights;
  linked_memory_.push_back({"kv_pool", pool_->size_bytes(), pool_->registered()});
  if (weights.layers_on_host()) {
    linked_memory_.push_back({"weights", weights.host_bytes(), weights.host_registered()});
  }
  for (const LinkedMemory& memory : linked_memory_) {
    if (!memory.page_locked && obtained_profile_.profile.has_value()) {
      return MeasureLinkAgain(settings, device, pool_->geometry(), *obtained_profile_.profile);
    }
  }
  return absl::OkStatus();
}

absl::Status Engine::DescribeModel(const Settings& settings, const ModelHeader& header,
                                   const device::Device& device) {
  const text::Vocabulary& vocabulary = loaded_.vocabulary;
  const auto spelling = [&vocabulary](const std::optional<text::TokenId>& id) {
    return id.has_value() ? vocabulary.tokens[static_cast<size_t>(*id)] : std::string();
  };
  model_.names = ModelNames(settings.served_model_name, loaded_.config.name, settings.model_path());
  model_.architecture = std::string(model::NameOf(loaded_.config.family));
  model_.parameters = loaded_.config.parameter_count();
  model_.trained_context_tokens = loaded_.config.context_length;
  model_.compute_dtype = device::NameOf(device.info().compute_dtype);
  model_.fingerprint = model::ToHex(loaded_.fingerprint);
  model_.weight_bytes = loaded_.weights->allocated_bytes() + loaded_.weights->host_bytes();
  model_.streamed_weight_bytes = loaded_.weights->host_bytes();
  model_.default_max_tokens = static_cast<int32_t>(settings.default_max_tokens);
  model_.defaults = header.sampling;
  model_.prefix_cache = settings.prefix_cache == "on";
  model_.max_priority = static_cast<int32_t>(settings.max_priority);
  model_.bos_token = spelling(vocabulary.bos);
  model_.eos_token = spelling(vocabulary.eos);
  SPILLWAY_ASSIGN_OR_RETURN(model_.chat_template, ReadChatTemplate(settings, vocabulary.chat_template));
  if (model_.chat_template.has_value() && vocabulary.model == "ids") {
    return absl::InvalidArgumentError(absl::StrCat("--chat_template=", settings.chat_template, ": ",
                                                   settings.model_path(),
                                                   " is served without a tokenizer, so without chat; leave "
                                                   "the flag empty"));
  }
  return absl::OkStatus();
}

absl::Status Engine::WarmUp(int64_t timeout_ms) {
  scheduler_->Start();
  scheduler::Request request;
  request.label = "warm-up";
  const int32_t prompt_tokens = std::min(kWarmUpPromptTokens, model_.context_tokens - 1);
  // Any token will do: the answer is thrown away.
  request.prompt.assign(static_cast<size_t>(prompt_tokens), model_.tokenizer->bos().value_or(0));
  request.max_tokens = std::min(kWarmUpTokens, model_.context_tokens - prompt_tokens);
  request.sampling.temperature = 0;
  request.ignore_eos = true;
  request.warm_up = true;
  request.arrival_ns = Clock::Real().NowNs();

  const auto wake_up = std::make_shared<WakeUp>();
  const auto stream =
      std::make_shared<scheduler::TokenStream>(/*max_events=*/64, [wake_up] { wake_up->Notify(); });
  SPILLWAY_RETURN_IF_ERROR(scheduler_->Submit(std::move(request), stream));
  const MonotonicNs until_ns = Clock::Real().NowNs() + timeout_ms * kNsPerMs;
  std::vector<scheduler::Event> events;
  absl::Status status;
  while (!stream->Take(&events, &status)) {
    events.clear();
    const int64_t left_ns = until_ns - Clock::Real().NowNs();
    if (left_ns <= 0) {
      return absl::DeadlineExceededError(absl::StrCat("the device did not answer the warm-up within ",
                                                      timeout_ms,
                                                      " ms; raise --stall_timeout_ms if it is only slow"));
    }
    wake_up->Wait(std::chrono::nanoseconds(left_ns));
  }
  SPILLWAY_RETURN_IF_ERROR(status);
  // The stream ends a moment before the step thread has told its observer.
  while (scheduler_->Snapshot().has_work && Clock::Real().NowNs() < until_ns) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  start_times_.Ended("warm_up");
  return absl::OkStatus();
}

std::string MemoryTable(const std::vector<MemoryUse>& memory) {
  std::map<std::string, std::map<std::string, int64_t>> rows;  // use -> place -> bytes
  std::map<std::string, int64_t> totals;
  for (const MemoryUse& use : memory) {
    rows[use.use][use.place] += use.bytes;
    totals[use.place] += use.bytes;
  }
  const auto line = [](absl::string_view name, std::map<std::string, int64_t>& places) {
    const auto cell = [&places](const char* place) {
      const auto found = places.find(place);
      return found == places.end() ? std::string("-") : FormatBytes(found->second);
    };
    return absl::StrFormat("  %-10s %12s %12s\n", name, cell("host"), cell("device"));
  };
  std::string out = absl::StrFormat("  %-10s %12s %12s\n", "memory", "host", "device");
  for (auto& [use, places] : rows) absl::StrAppend(&out, line(use, places));
  absl::StrAppend(&out, line("total", totals));
  return out;
}

}  // namespace spillway::server
