#include "bench/gpu_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "bench/greedy_row.h"
#include "engine/exec/cache_geometry.h"
#include "engine/exec/link_memory.h"

namespace spillway::bench {
namespace {

exec::Segment SegmentOf(absl::Span<const int32_t> ids, int32_t first_position,
                        absl::Span<const kv::BlockId> blocks, exec::Output output) {
  exec::Segment segment;
  segment.tokens = ids;
  segment.first_position = first_position;
  segment.blocks = blocks;
  segment.output = output;
  segment.sample = GreedyRow(first_position + static_cast<int32_t>(ids.size()));
  return segment;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GpuSession>> GpuSession::Create(device::Device& device,
                                                               const model::Model& model,
                                                               const GpuShape& shape, CachePlace place) {
  auto session = std::unique_ptr<GpuSession>(new GpuSession(shape, place));
  const kv::Geometry geometry =
      exec::CacheGeometry(model.config, device.info().compute_dtype, shape.block_tokens);
  const int32_t sequences = shape.batches.back();
  const int64_t each = geometry.blocks_for(shape.context + shape.room_tokens());
  const int64_t prompt = place == CachePlace::kDevice ? geometry.blocks_for(shape.prompt) : 0;
  const int64_t n_blocks = sequences * each + prompt;
  SPILLWAY_ASSIGN_OR_RETURN(
      session->pool_, kv::HostPool::Create(device, geometry, n_blocks * geometry.block_bytes(kv::Form::kKv)));
  session->store_ = std::make_unique<kv::BlockStore>(*session->pool_);
  const auto take = [&](int64_t count) {
    std::vector<kv::BlockId> blocks;
    for (int64_t i = 0; i < count; ++i) {
      blocks.push_back(session->store_->Allocate());
      SPILLWAY_CHECK(blocks.back() != kv::kNoBlock);
    }
    return blocks;
  };
  for (int32_t s = 0; s < sequences; ++s) session->tables_.push_back(take(each));
  session->prompt_ = take(prompt);
  session->cached_.assign(static_cast<size_t>(sequences), place == CachePlace::kHost ? shape.context : 0);
  session->ids_.resize(static_cast<size_t>(std::max(shape.piece_rows.back(), 1)));
  for (size_t i = 0; i < session->ids_.size(); ++i) {
    session->ids_[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(model.config.vocab_size));
  }
  SPILLWAY_RETURN_IF_ERROR(session->CreateExecutor(device, model));
  return session;
}

absl::Status GpuSession::CreateExecutor(device::Device& device, const model::Model& model) {
  const kv::Geometry& geometry = pool_->geometry();
  const int32_t sequences = shape_.batches.back();
  const bool on_device = place_ == CachePlace::kDevice;
  exec::ItemLimits decode;
  decode.max_rows = decode.max_segments = decode.max_outputs = sequences;
  decode.max_blocks = store_->max_blocks();
  exec::ItemLimits prefill;
  prefill.max_rows = shape_.piece_rows.back();
  prefill.max_segments = prefill.max_outputs = 1;
  prefill.max_blocks = static_cast<int64_t>(std::max(prompt_.size(), tables_.front().size()));

  exec::LinkExecutorOptions options;
  options.chunk_rows = on_device ? std::max(sequences, prefill.max_rows) : sequences;
  options.ring_chunk_bytes = shape_.ring_chunk_bytes;
  if (!on_device) options.resident_blocks_max = 0;
  const exec::LinkMemory memory = exec::LinkMemoryOf(options, geometry, store_->stores_x());
  const int64_t kept = on_device ? store_->max_blocks() : exec::MaxOpenBlocks(decode, geometry);
  options.cache_bytes = (exec::OpenCacheSlots(kept, memory) + 2) * geometry.slot_bytes() * geometry.n_layers;
  SPILLWAY_ASSIGN_OR_RETURN(
      executor_, exec::LinkExecutor::Create(device, model.config, *model.weights, *pool_, *store_, options));
  SPILLWAY_ASSIGN_OR_RETURN(decode_, executor_->CreateWorkItem(decode));
  if (!on_device) return absl::OkStatus();
  SPILLWAY_ASSIGN_OR_RETURN(prefill_, executor_->CreateWorkItem(prefill));
  return absl::OkStatus();
}

absl::StatusOr<exec::StepStats> GpuSession::Run(exec::WorkItem& item, exec::Phase phase,
                                                absl::Span<const exec::Segment> segments) {
  const exec::BatchShape shape = executor_->ShapeOf(phase, segments);
  executor_->Begin(item, phase, segments,
                   place_ == CachePlace::kDevice ? exec::AllResidentPlan(shape) : exec::TransferPlan(shape));
  while (!item.done()) SPILLWAY_RETURN_IF_ERROR(executor_->Visit(item));
  SPILLWAY_ASSIGN_OR_RETURN(const exec::StepResult result, executor_->Finish(item));
  const exec::TokenClasses& tokens = result.stats.tokens;
  if (place_ == CachePlace::kDevice && tokens.carried_kv_tokens + tokens.carried_x_tokens > 0) {
    return absl::InternalError(absl::StrCat("of a cache that should all lie on the device, ",
                                            tokens.carried_kv_tokens + tokens.carried_x_tokens,
                                            " tokens were carried"));
  }
  return result.stats;
}

absl::StatusOr<exec::StepStats> GpuSession::RunPiece(absl::Span<const kv::BlockId> table, int32_t begin,
                                                     int32_t rows, exec::Output output) {
  const exec::Segment segment =
      SegmentOf(absl::MakeConstSpan(ids_).first(static_cast<size_t>(rows)), begin, table, output);
  return Run(*prefill_, exec::Phase::kPrefill, {&segment, 1});
}

absl::Status GpuSession::FillContexts() {
  for (size_t s = 0; s < tables_.size(); ++s) {
    for (int32_t begin = 0; begin < shape_.context;) {
      const int32_t rows = std::min(shape_.piece_rows.back(), shape_.context - begin);
      SPILLWAY_RETURN_IF_ERROR(RunPiece(tables_[s], begin, rows, exec::Output::kNone).status());
      begin += rows;
    }
    cached_[s] = shape_.context;
  }
  executor_->WaitForStores();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<exec::StepStats>> GpuSession::Decode(int32_t batch, int32_t steps) {
  std::vector<exec::StepStats> all;
  std::vector<exec::Segment> segments;
  for (int32_t step = 0; step < steps; ++step) {
    segments.clear();
    for (int32_t s = 0; s < batch; ++s) {
      const auto index = static_cast<size_t>(s);
      SPILLWAY_CHECK(cached_[index] < shape_.context + shape_.room_tokens());
      segments.push_back(SegmentOf(absl::MakeConstSpan(ids_).first(1), cached_[index], tables_[index],
                                   exec::Output::kSample));
      segments.back().sequence = static_cast<uint64_t>(s);
      ++cached_[index];
    }
    SPILLWAY_ASSIGN_OR_RETURN(const exec::StepStats stats, Run(*decode_, exec::Phase::kDecode, segments));
    all.push_back(stats);
  }
  return all;
}

absl::StatusOr<std::vector<exec::StepStats>> GpuSession::Prefill(int32_t piece_rows) {
  // What the last one wrote is forgotten.
  executor_->WaitForStores();
  for (const kv::BlockId block : prompt_) executor_->block_listener().OnBlockLost(block);
  std::vector<exec::StepStats> all;
  for (int32_t begin = 0; begin < shape_.prompt;) {
    const int32_t rows = std::min(piece_rows, shape_.prompt - begin);
    const bool is_last = begin + rows == shape_.prompt;
    SPILLWAY_ASSIGN_OR_RETURN(
        const exec::StepStats stats,
        RunPiece(prompt_, begin, rows, is_last ? exec::Output::kSample : exec::Output::kNone));
    all.push_back(stats);
    begin += rows;
  }
  return all;
}

}  // namespace spillway::bench
