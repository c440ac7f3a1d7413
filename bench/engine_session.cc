#include "bench/engine_session.h"

#include <algorithm>
#include <ctime>

#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "bench/greedy_row.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/exec/cache_geometry.h"

namespace spillway::bench {
namespace {

constexpr int32_t kBlockTokens = 16;

double ProcessCpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineSession>> EngineSession::Create(const EngineOptions& options) {
  auto session = std::unique_ptr<EngineSession>(new EngineSession);
  session->options_ = options;
  device::CpuDeviceOptions cpu;
  cpu.threads = options.threads;
  SPILLWAY_ASSIGN_OR_RETURN(session->device_, device::CreateCpuDevice(cpu));
  SPILLWAY_ASSIGN_OR_RETURN(session->model_, model::LoadModel(options.model_path, *session->device_, {}));

  const kv::Geometry geometry =
      exec::CacheGeometry(session->model_.config, session->device_->info().compute_dtype, kBlockTokens);
  const int64_t sequence_blocks = geometry.blocks_for(options.max_tokens);
  const int64_t n_blocks = options.max_batch * sequence_blocks;
  SPILLWAY_ASSIGN_OR_RETURN(
      session->pool_,
      kv::HostPool::Create(*session->device_, geometry, n_blocks * geometry.block_bytes(kv::Form::kKv)));
  session->store_ = std::make_unique<kv::BlockStore>(*session->pool_);
  for (int64_t i = 0; i < n_blocks; ++i) session->blocks_.push_back(session->store_->Allocate());

  exec::RowExecutorOptions executor_options;
  executor_options.chunk_rows = options.chunk_rows;
  SPILLWAY_ASSIGN_OR_RETURN(
      session->executor_,
      exec::RowExecutor::Create(*session->device_, session->model_.config, *session->model_.weights,
                                *session->pool_, *session->store_, executor_options));
  exec::ItemLimits decode;
  decode.max_rows = decode.max_segments = decode.max_outputs = options.max_batch;
  decode.max_blocks = n_blocks;
  SPILLWAY_ASSIGN_OR_RETURN(session->decode_, session->executor_->CreateWorkItem(decode));
  exec::ItemLimits prefill;
  prefill.max_rows = options.max_tokens;
  prefill.max_segments = prefill.max_outputs = 1;
  prefill.max_blocks = sequence_blocks;
  SPILLWAY_ASSIGN_OR_RETURN(session->prefill_, session->executor_->CreateWorkItem(prefill));
  return session;
}

absl::Span<const kv::BlockId> EngineSession::BlocksOf(int32_t sequence, int32_t tokens) const {
  const auto per_sequence = static_cast<size_t>(pool_->geometry().blocks_for(options_.max_tokens));
  const auto used = static_cast<size_t>(pool_->geometry().blocks_for(tokens));
  return absl::MakeConstSpan(blocks_).subspan(static_cast<size_t>(sequence) * per_sequence, used);
}

absl::StatusOr<StepTime> EngineSession::RunItem(exec::WorkItem& item, exec::Phase phase,
                                                absl::Span<const exec::Segment> segments) {
  const double cpu_before = ProcessCpuSeconds();
  const MonotonicNs begin_ns = Clock::Real().NowNs();
  executor_->Begin(item, phase, segments, exec::AllResidentPlan({}));
  while (!item.done()) SPILLWAY_RETURN_IF_ERROR(executor_->Visit(item));
  SPILLWAY_RETURN_IF_ERROR(executor_->Finish(item).status());
  return StepTime{ToSeconds(Clock::Real().NowNs() - begin_ns), ProcessCpuSeconds() - cpu_before};
}

absl::StatusOr<std::vector<StepTime>> EngineSession::Decode(int32_t batch, int32_t context, int32_t steps) {
  SPILLWAY_CHECK(batch <= options_.max_batch && context + steps <= options_.max_tokens);
  const text::TokenId token = std::min(100, model_.config.vocab_size - 1);
  std::vector<StepTime> times;
  std::vector<exec::Segment> segments(static_cast<size_t>(batch));
  for (int32_t step = 0; step < steps; ++step) {
    const int32_t position = context + step;
    for (int32_t i = 0; i < batch; ++i) {
      exec::Segment& segment = segments[static_cast<size_t>(i)];
      segment.sequence = static_cast<uint64_t>(i);
      segment.tokens = {&token, 1};
      segment.first_position = position;
      segment.blocks = BlocksOf(i, position + 1);
      segment.output = exec::Output::kSample;
      segment.sample = GreedyRow(position + 1);
    }
    SPILLWAY_ASSIGN_OR_RETURN(const StepTime time, RunItem(*decode_, exec::Phase::kDecode, segments));
    times.push_back(time);
  }
  return times;
}

absl::StatusOr<StepTime> EngineSession::Prefill(int32_t tokens) {
  SPILLWAY_CHECK(tokens <= options_.max_tokens);
  std::vector<text::TokenId> ids(static_cast<size_t>(tokens));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<text::TokenId>((i * 7919 + 13) % static_cast<size_t>(model_.config.vocab_size));
  }
  exec::Segment segment;
  segment.tokens = ids;
  segment.blocks = BlocksOf(0, tokens);
  segment.output = exec::Output::kSample;
  segment.sample = GreedyRow(tokens);
  return RunItem(*prefill_, exec::Phase::kPrefill, {&segment, 1});
}

int64_t LayersFlopPerRow(const model::Model& model) {
  int64_t elements = 0;
  for (const model::LayerWeights& layer : model.weights->layers()) {
    for (const device::PackedMatrix* matrix : {&layer.qkv, &layer.attention_output, &layer.up, &layer.down}) {
      elements += matrix->n * matrix->k;
    }
  }
  return 2 * elements;
}

int64_t PromptAttentionFlop(const model::ModelConfig& config, int64_t tokens) {
  return 4 * config.d_q() * config.n_layers * (tokens * (tokens + 1) / 2);
}

int64_t HeadFlopPerRow(const model::Model& model) {
  return 2 * model.weights->head().n * model.weights->head().k;
}

}  // namespace spillway::bench
