#include "server/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "server/address_file.h"
#include "server/delivery.h"
#include "server/device_defaults.h"
#include "server/engine.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/planner_setup.h"
#include "server/pool_setup.h"
#include "server/process_setup.h"
#include "server/profile_step.h"
#include "server/security.h"
#include "server/served_model.h"
#include "server/serving_state.h"
#include "server/signal_watch.h"
#include "server/telemetry.h"
#include "server/text_pool.h"

namespace spillway::server {
namespace {

constexpr std::chrono::milliseconds kWatchPeriod(200);
// After the last stream ended, its end may still be on the way to the client: readers have what is left of
// the drain's time for it, and this at least.
constexpr int64_t kLastBytesMs = 2000;
// Time for a probe to see that /livez fails, and for the log to get out.
constexpr std::chrono::milliseconds kBeforeStallExit(1000);

class Daemon {
 public:
  Daemon(const Settings& settings, const Clock& clock, AddressFile& address_file,
         std::unique_ptr<Security> security)
      : settings_(settings),
        clock_(clock),
        address_file_(address_file),
        security_(std::move(security)),
        telemetry_(metrics_, security_->tokens()),
        text_pool_({.threads = static_cast<int>(settings.tokenizer_threads)}) {
    metrics_.SetSecuritySource([this] { return security_->Counts(); });
  }

  ~Daemon() {
    if (grpc_ != nullptr) Close(0);
  }
  absl::Status Bind(int64_t context_tokens);
  // Arms `signals` before anybody can be served: what stops the daemon from then on drains it.
  absl::Status Load(const ModelHeader& header, device::Device& device, SignalWatch& signals);
  // Until a signal, a failure or a stall.
  absl::Status Watch(SignalWatch& signals);
  struct Drained {
    int64_t left_ms = 0;       // of the time for it: for those that read the ends of their streams
    int64_t cut_requests = 0;  // that were ended before their own end
  };
  // Streams end, or are ended.
  absl::StatusOr<Drained> Drain();
  // An error when the device failed; does not return when it hangs.
  absl::Status CheckEngine();
  // Closes the ports. Answers that have not been read by then are read for `last_bytes_ms` longer.
  void Close(int64_t last_bytes_ms);

 private:
  bool Stalled() const;
  std::map<std::string, HttpServer::Handler> HttpHandlers();
  void LogState() const;
  absl::Status FailEngine();
  // The step thread hangs: nothing that waits for it can be taken down in order.
  [[noreturn]] void ExitHung(const std::string& error);

  const Settings& settings_;
  const Clock& clock_;
  AddressFile& address_file_;
  const std::unique_ptr<Security> security_;
  ServingState state_;
  Metrics metrics_;
  Telemetry telemetry_;
  // Calls use everything above and the engine's parts: they end when grpc_ does.
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Backend> backend_;
  TextPool text_pool_;
  Delivery delivery_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
};

absl::Status Daemon::Bind(int64_t context_tokens) {
  absl::StatusOr<std::unique_ptr<HttpServer>> http =
      HttpServer::Start(settings_.metrics_listen, HttpHandlers());
  if (!http.ok()) {
    return absl::UnavailableError(absl::StrCat("--metrics_listen: ", http.status().message()));
  }
  http_ = *std::move(http);
  const int64_t max_open_files = MaxOpenFiles();
  const int64_t max_connections = ConnectionLimit(settings_.max_connections, max_open_files);
  metrics_.SetLimit("connections", max_connections);
  if (max_connections < settings_.max_connections) {
    Log(LogLevel::kWarning, "the limit of open files leaves fewer connections; raise it (ulimit -n)",
        {{"max_connections", max_connections}, {"open_files", max_open_files}});
  }
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc =
      GrpcServer::Start({.listen = settings_.listen,
                         .admin_listen = settings_.admin_listen,
                         .context_tokens = context_tokens,
                         .max_streams_per_connection = settings_.max_streams_per_connection,
                         .max_connection_age_ms = settings_.max_connection_age_ms,
                         .reflection = settings_.reflection == "on",
                         .max_connections = max_connections,
                         .network_memory_bytes = settings_.network_memory_bytes,
                         .receive_timeout = std::chrono::milliseconds(settings_.receive_timeout_ms),
                         .unread_timeout = std::chrono::milliseconds(settings_.slow_reader_timeout_ms),
                         .tokens = security_->tokens(),
                         .tls = security_->tls()},
                        {state_, text_pool_, delivery_, telemetry_, clock_});
  if (!grpc.ok()) {
    return absl::UnavailableError(
        absl::StrCat(settings_.admin_listen.empty() ? "--listen: " : "--listen, --admin_listen: ",
                     grpc.status().message()));
  }
  grpc_ = *std::move(grpc);
  metrics_.SetNetworkSource([this] {
    return NetworkCounts{.connections = grpc_->Connections(),
                         .unfinished_messages = grpc_->waits().receiving.cancelled(),
                         .unread_answers = grpc_->waits().unread.cancelled()};
  });
  Log(LogLevel::kInfo, "listening",
      {{"grpc", grpc_->address()},
       {"admin", grpc_->admin_address()},
       {"metrics", http_->address()},
       {"tls", security_->tls() != nullptr},
       {"tokens", security_->tokens() != nullptr}});
  security_->WarnOfExposure(settings_);
  return address_file_.Write(grpc_->address(), grpc_->admin_address(), http_->address());
}

std::map<std::string, HttpServer::Handler> Daemon::HttpHandlers() {
  return {{"/",
           [] {
             return HttpReply{200, "spillwayd " SPILLWAY_VERSION "\n/metrics  /livez  /readyz\n"};
           }},
          {"/metrics",
           [this] {
             return HttpReply{200, metrics_.Scrape(), "text/plain; version=0.0.4; charset=utf-8"};
           }},
          {"/livez",
           [this] {
             return Stalled() ? HttpReply{503, "stalled\n"} : HttpReply{200, "ok\n"};
           }},
          {"/readyz", [this] {
             return state_.ready() ? HttpReply{200, "ok\n"} : HttpReply{503, "not ready\n"};
           }}};
}

absl::Status Daemon::Load(const ModelHeader& header, device::Device& device, SignalWatch& signals) {
  const MonotonicNs begin_ns = clock_.NowNs();
  SPILLWAY_ASSIGN_OR_RETURN(engine_, Engine::Load(settings_, header, device, telemetry_));
  const ServedModel& model = engine_->model();
  if (settings_.log_format == "text") {
    std::fputs(MemoryTable(engine_->memory()).c_str(), stderr);
  }
  for (const MemoryUse& use : engine_->memory()) {
    metrics_.SetMemory(use.place, use.use, use.bytes);
    if (settings_.log_format == "text") continue;
    Log(LogLevel::kInfo, "memory", {{"place", use.place}, {"use", use.use}, {"bytes", use.bytes}});
  }
  for (const LinkedMemory& memory : engine_->linked_memory()) {
    metrics_.SetLinkedMemory(memory.use, memory.bytes, memory.page_locked);
  }
  Log(LogLevel::kInfo, "warming up");
  if (const absl::Status warm = engine_->WarmUp(settings_.stall_timeout_ms); !warm.ok()) {
    const std::string error = absl::StrCat(settings_.model_path(), ": the warm-up failed: ", warm.message());
    if (absl::IsDeadlineExceeded(warm)) ExitHung(error);
    return absl::Status(warm.code(), error);
  }

  std::string phases;
  for (const StartTimes::Phase& phase : engine_->start_times().phases()) {
    metrics_.SetStartTime(phase.name, phase.seconds);
    absl::StrAppendFormat(&phases, "%s%s %.3f", phases.empty() ? "" : ", ", phase.name, phase.seconds);
  }
  metrics_.SetProfileUnsaved(engine_->is_profile_unsaved());
  metrics_.SetLimit("sequences", settings_.max_sequences);
  metrics_.SetLimit("waiting_requests", settings_.max_queue);
  metrics_.SetLimit("context_tokens", model.context_tokens);
  metrics_.SetModelInfo(model.name(), model.architecture, model.compute_dtype, device.info().kind,
                        model.fingerprint);
  grpc_->admin().SetStatic({.device = absl::StrCat(device.info().kind, ": ", device.info().name),
                            .geometry = engine_->geometry(),
                            .memory = engine_->memory(),
                            .max_sequences = static_cast<int32_t>(settings_.max_sequences),
                            .max_queue = static_cast<int32_t>(settings_.max_queue),
                            .context_tokens = model.context_tokens,
                            .max_connections = ConnectionLimit(settings_.max_connections, MaxOpenFiles()),
                            .served_memory = engine_->served_memory()});
  grpc_->admin().SetDrain([&signals] { signals.Stop("AdminService.Drain"); });
  if (engine_->profile().has_value()) grpc_->admin().SetProfile(*engine_->profile());
  backend_ =
      std::make_unique<Backend>(model, engine_->scheduler(), engine_->plan_solver(), &engine_->timeline());
  metrics_.SetSources([this] { return engine_->scheduler().Snapshot(); }, [this] { return state_.ready(); });
  telemetry_.Listen();
  signals.Arm();
  state_.Publish(backend_.get());
  state_.Enter(ServerPhase::kServing);
  grpc_->health().SetServing(true);
  Log(LogLevel::kInfo, "serving",
      {{"model", model.name()},
       {"grpc", grpc_->address()},
       {"device", device.info().name},
       {"dtype", model.compute_dtype},
       {"context_tokens", model.context_tokens},
       {"text", model.tokenizer->has_text()},
       {"chat", model.chat_template.has_value()},
       {"start_s", ToSeconds(clock_.NowNs() - begin_ns)},
       {"phases_s", phases}});
  return absl::OkStatus();
}

bool Daemon::Stalled() const {
  const Backend* backend = state_.backend();
  if (backend == nullptr) return false;
  const scheduler::SchedulerSnapshot now = backend->scheduler.Snapshot();
  return now.has_work && clock_.NowNs() - now.last_visit_ns > settings_.stall_timeout_ms * kNsPerMs;
}

void Daemon::LogState() const {
  const scheduler::SchedulerSnapshot now = backend_->scheduler.Snapshot();
  Log(LogLevel::kError, "state",
      {{"visits", now.visits},
       {"ms_since_visit", ToMs(clock_.NowNs() - now.last_visit_ns)},
       {"running_sequences", now.running_sequences},
       {"prefilling_sequences", now.prefilling_sequences},
       {"paused_sequences", now.paused_sequences},
       {"running_requests", now.running_requests},
       {"returned_sequences", now.returned_sequences},
       {"waiting_requests", now.waiting_requests},
       {"waiting_tokens", now.waiting_tokens},
       {"free_blocks", now.blocks.free_blocks},
       {"in_use_blocks", now.blocks.in_use_blocks},
       {"cached_blocks", now.blocks.cached_blocks},
       {"preemptions", now.preemptions}});
}

void Daemon::ExitHung(const std::string& error) {
  address_file_.Remove();
  LogLast("spillwayd", error);
  _exit(1);
}

absl::Status Daemon::FailEngine() {
  grpc_->health().SetServing(false);
  state_.Enter(ServerPhase::kFailed);
  LogState();
  Close(kLastBytesMs);
  return absl::UnavailableError("the device failed; the log has the cause");
}

absl::Status Daemon::CheckEngine() {
  if (engine_->scheduler().Snapshot().failed) return FailEngine();
  if (!Stalled()) return absl::OkStatus();
  grpc_->health().SetServing(false);
  state_.Enter(ServerPhase::kFailed);
  LogState();
  Log(LogLevel::kError, "no visit finished within --stall_timeout_ms although there is work: exiting",
      {{"stall_timeout_ms", settings_.stall_timeout_ms}});
  std::this_thread::sleep_for(kBeforeStallExit);
  ExitHung("the device hangs; the log has the state");
}

absl::Status Daemon::Watch(SignalWatch& signals) {
  while (!signals.WaitFor(kWatchPeriod)) SPILLWAY_RETURN_IF_ERROR(CheckEngine());
  return absl::OkStatus();
}

absl::StatusOr<Daemon::Drained> Daemon::Drain() {
  grpc_->health().SetServing(false);
  state_.Enter(ServerPhase::kLameDuck);
  if (settings_.lame_duck_ms > 0) {
    Log(LogLevel::kInfo, "lame duck: still accepting", {{"lame_duck_ms", settings_.lame_duck_ms}});
    const MonotonicNs until_ns = clock_.NowNs() + settings_.lame_duck_ms * kNsPerMs;
    for (int64_t left_ns = 0; (left_ns = until_ns - clock_.NowNs()) > 0;) {
      std::this_thread::sleep_for(
          std::min<std::chrono::nanoseconds>(kWatchPeriod, std::chrono::nanoseconds(left_ns)));
      SPILLWAY_RETURN_IF_ERROR(CheckEngine());
    }
  }
  state_.Enter(ServerPhase::kDraining);
  Log(LogLevel::kInfo, "draining", {{"drain_timeout_ms", settings_.drain_timeout_ms}});
  const MonotonicNs begin_ns = clock_.NowNs();
  // A device that hangs now never ends its streams: the watch goes on beside the drain.
  std::future<int64_t> drained = std::async(
      std::launch::async, [this] { return engine_->scheduler().Drain(settings_.drain_timeout_ms); });
  while (drained.wait_for(kWatchPeriod) != std::future_status::ready) {
    if (Stalled()) (void)CheckEngine();
  }
  if (engine_->scheduler().Snapshot().failed) return FailEngine();
  return Drained{settings_.drain_timeout_ms - (clock_.NowNs() - begin_ns) / kNsPerMs, drained.get()};
}

void Daemon::Close(int64_t last_bytes_ms) {
  const MonotonicNs begin_ns = clock_.NowNs();
  grpc_->Shutdown(std::chrono::milliseconds(last_bytes_ms));
  if (last_bytes_ms > 0 && clock_.NowNs() - begin_ns >= last_bytes_ms * kNsPerMs) {
    Log(LogLevel::kWarning, "clients that had not read their answers to the end were cut off",
        {{"waited_ms", last_bytes_ms}});
  }
  metrics_.SetNetworkSource(nullptr);
  grpc_.reset();
  // Probes are answered until the last call has ended.
  http_.reset();
}

}  // namespace

absl::Status Serve(const Settings& asked, const DeviceFactory& create_device) {
  SPILLWAY_RETURN_IF_ERROR(CheckModelNames(asked.served_model_name));
  SPILLWAY_RETURN_IF_ERROR(ReadPlanModes(asked).status());
  SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<Security> security, Security::Load(asked));
  // The file of an earlier run is replaced once the ports are bound: until then it may be a running daemon's.
  AddressFile address_file(asked.address_file);
  SPILLWAY_RETURN_IF_ERROR(address_file.Check());
  SignalWatch signals([&address_file] { address_file.Remove(); });
  SPILLWAY_ASSIGN_OR_RETURN(const ModelHeader header, ReadModelHeader(asked));
  SPILLWAY_ASSIGN_OR_RETURN(const int32_t context_tokens, ContextTokens(asked, header));
  SPILLWAY_RETURN_IF_ERROR(CheckChatTemplate(asked));
  SPILLWAY_ASSIGN_OR_RETURN(const std::unique_ptr<device::Device> device, create_device(asked));
  const Settings settings = SettingsOn(device->info(), asked);
  SPILLWAY_RETURN_IF_ERROR(CheckPlanModes(settings, header.config, *device));
  SPILLWAY_RETURN_IF_ERROR(CheckProfileFlag(settings, header.config, device->info()));
  if (settings.profile_only) return ProfileOnly(settings, *device);
  SPILLWAY_RETURN_IF_ERROR(CheckPoolFlag(settings, context_tokens, header.config, device->info()));
  Daemon daemon(settings, Clock::Real(), address_file, std::move(security));
  SPILLWAY_RETURN_IF_ERROR(daemon.Bind(context_tokens));
  SPILLWAY_RETURN_IF_ERROR(daemon.Load(header, *device, signals));
  SPILLWAY_RETURN_IF_ERROR(daemon.Watch(signals));
  SPILLWAY_ASSIGN_OR_RETURN(const auto drained, daemon.Drain());
  daemon.Close(std::max(kLastBytesMs, drained.left_ms));
  address_file.Remove();
  Log(drained.cut_requests > 0 ? LogLevel::kWarning : LogLevel::kInfo, "stopped",
      {{"cut_requests", drained.cut_requests}});
  return absl::OkStatus();
}

}  // namespace spillway::server
