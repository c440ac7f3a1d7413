#include "tests/engine/exec/tiny_engine.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>
#include <random>
#include <utility>

#include "base/check.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/exec/cache_geometry.h"
#include "tests/engine/exec/tiny_link_device.h"

namespace spillway::exec {
namespace {

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) std::cerr << value.status() << std::endl;
  SPILLWAY_CHECK(value.ok());
  return std::move(value).value();
}

}  // namespace

TinyEngine::TinyEngine(const std::string& model_path, const TinyEngineOptions& options) {
  device::CpuDeviceOptions cpu;
  cpu.dtype = options.dtype;
  cpu.threads = options.threads;
  device_ = ValueOrDie(device::CreateCpuDevice(cpu));
  if (options.link.has_value() && options.link->timed.has_value()) {
    target_ = std::move(device_);
    device_ = std::make_unique<fakes::TimedDevice>(*target_, *options.link->timed, *options.clock);
  } else if (options.link.has_value()) {
    device_ = ValueOrDie(CreateTinyLinkDevice(std::move(device_), options.link->stream));
    if (options.link->check_order) {
      target_ = std::move(device_);
      device_ = std::make_unique<fakes::HostOrderDevice>(*target_);
    }
  }
  model::WeightOptions weights;
  if (options.link.has_value()) weights.mode = options.link->weight_mode;
  if (options.link.has_value() && options.link->stream_weights) weights.layers_on = model::WeightPlace::kHost;
  model_ = ValueOrDie(model::LoadModel(model_path, *device_, weights));
  const kv::Geometry geometry = CacheGeometry(model_.config, options.dtype, options.block_tokens);
  const kv::Form form = options.link.has_value() ? options.link->form : kv::Form::kKv;
  const int64_t pool_slots = options.n_blocks * geometry.block_slots(form);
  pool_ = ValueOrDie(kv::HostPool::Create(
      *device_, geometry, (pool_slots + pool_slots % 2) * geometry.slot_bytes() * geometry.n_layers,
      form != kv::Form::kKv));
  // What was never written must not be read: NaN in every block would show.
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    std::fill_n(pool_->LayerArena(layer), pool_->n_slots() * geometry.slot_bytes(), uint8_t{0xff});
  }
  kv::FormPolicy policy{.stores_x = true, .both_below = form == kv::Form::kBoth ? 1.0 : 0.0, .x_share = 1};
  if (options.link.has_value() && options.link->policy.has_value()) policy = *options.link->policy;
  store_ = std::make_unique<kv::BlockStore>(*pool_, policy);
  if (options.link.has_value()) {
    const TinyLink& link = *options.link;
    LinkExecutorOptions link_options;
    link_options.timeline = options.timeline;
    link_options.chunk_rows = options.chunk_rows;
    link_options.head_rows = options.head_rows;
    link_options.ring_chunks = link.ring_chunks;
    link_options.check_blocks = link.check_blocks;
    link_options.resident_blocks_max = link.resident_blocks_max;
    link_options.residency = link.residency;
    link_options.ring_chunk_bytes = link.chunk_blocks * 2 * geometry.slot_bytes();
    link_options.cache_bytes =
        link.cache_blocks * geometry.block_bytes(form == kv::Form::kKv ? form : kv::Form::kBoth);
    auto executor = ValueOrDie(LinkExecutor::Create(*device_, model_.config, *model_.weights, *pool_, *store_,
                                                    link_options, *options.clock));
    executor_ = std::move(executor);
    plan_.mode = link.mode;
    CarryAsX(link.x_share);
  } else {
    RowExecutorOptions executor_options;
    executor_options.timeline = options.timeline;
    executor_options.chunk_rows = options.chunk_rows;
    executor_options.head_rows = options.head_rows;
    executor_ = ValueOrDie(RowExecutor::Create(*device_, model_.config, *model_.weights, *pool_, *store_,
                                               executor_options, *options.clock));
  }
  max_item_segments_ = options.max_item_segments;
  item_ = NewItem(options.max_item_rows);
}

void TinyEngine::CarryAsX(double share) {
  plan_.tokens.carried_x_tokens = static_cast<int64_t>(share * 1000);
  plan_.tokens.carried_kv_tokens = 1000 - plan_.tokens.carried_x_tokens;
}

std::unique_ptr<WorkItem> TinyEngine::NewItem(int32_t max_rows) {
  ItemLimits limits;
  limits.max_rows = max_rows;
  limits.max_segments = std::min(max_rows, max_item_segments_);
  limits.max_blocks = 4 * store_->max_blocks();
  limits.max_outputs = max_rows;
  limits.max_kept_logits = max_rows;
  return ValueOrDie(executor_->CreateWorkItem(limits));
}

void TinyEngine::Cover(Sequence& sequence) {
  const int64_t wanted = pool_->geometry().blocks_for(sequence.size());
  while (static_cast<int64_t>(sequence.blocks.size()) < wanted) {
    sequence.blocks.push_back(store_->Allocate());
    SPILLWAY_CHECK(sequence.blocks.back() != kv::kNoBlock);
  }
}

void TinyEngine::Release(Sequence& sequence) {
  while (!sequence.blocks.empty()) {
    store_->Unref(sequence.blocks.back());
    sequence.blocks.pop_back();
  }
  sequence.n_cached = 0;
}

Segment TinyEngine::Next(Sequence& sequence, int32_t n_tokens, Output output) {
  SPILLWAY_CHECK(sequence.n_cached + n_tokens <= sequence.size());
  Cover(sequence);
  Segment segment;
  segment.tokens = absl::MakeConstSpan(sequence.tokens)
                       .subspan(static_cast<size_t>(sequence.n_cached), static_cast<size_t>(n_tokens));
  segment.first_position = sequence.n_cached;
  segment.blocks = sequence.blocks;
  segment.output = output;
  sequence.n_cached += n_tokens;
  segment.sample = GreedyRow(sequence.n_cached);
  return segment;
}

StepResult TinyEngine::Run(WorkItem& item, absl::Span<const Segment> segments, Phase phase) {
  executor_->Begin(item, phase, segments, plan_);
  while (!item.done()) SPILLWAY_CHECK(executor_->Visit(item).ok());
  return ValueOrDie(executor_->Finish(item));
}

std::vector<std::vector<float>> TinyEngine::KeptLogits(const WorkItem& item, int32_t segment,
                                                       int32_t n_rows) const {
  std::vector<std::vector<float>> logits;
  for (int32_t row = 0; row < n_rows; ++row) {
    const absl::Span<const float> kept = executor_->LogitsOf(item, segment, row);
    logits.emplace_back(kept.begin(), kept.end());
  }
  return logits;
}

std::vector<std::vector<float>> TinyEngine::Logits(Sequence& sequence, int32_t n_tokens) {
  const Segment segment = Next(sequence, n_tokens);
  Run(*item_, {&segment, 1});
  return KeptLogits(*item_, 0, n_tokens);
}

std::vector<std::vector<float>> TinyEngine::LogitsOfAll(const std::vector<text::TokenId>& tokens) {
  Sequence sequence;
  sequence.tokens = tokens;
  std::vector<std::vector<float>> logits = Logits(sequence, sequence.size());
  Release(sequence);
  return logits;
}

std::vector<text::TokenId> RandomTokens(uint32_t seed, int32_t n_tokens, int32_t vocab_size) {
  std::mt19937 random(seed);
  std::vector<text::TokenId> tokens;
  for (int32_t i = 0; i < n_tokens; ++i) {
    tokens.push_back(static_cast<text::TokenId>(random() % static_cast<uint32_t>(vocab_size)));
  }
  return tokens;
}

device::SampleRow GreedyRow(int32_t position) {
  device::SampleRow row{};
  row.temperature = 0;
  row.top_p = 1;
  row.repetition_penalty = 1;
  row.n_logprobs = -1;
  row.position = position;
  return row;
}

LogitDifference Difference(const std::vector<std::vector<float>>& a,
                           const std::vector<std::vector<float>>& b) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  LogitDifference result;
  double sum_of_squares = 0;
  int64_t count = 0;
  bool comparable = a.size() == b.size() && !a.empty();
  for (size_t row = 0; comparable && row < a.size(); ++row) {
    comparable = a[row].size() == b[row].size();
    for (size_t i = 0; comparable && i < a[row].size(); ++i) {
      const double difference = std::abs(double{a[row][i]} - double{b[row][i]});
      comparable = !std::isnan(difference);
      result.largest = std::max(result.largest, difference);
      sum_of_squares += difference * difference;
      ++count;
    }
  }
  if (!comparable) return {kInfinite, kInfinite};
  result.rms = std::sqrt(sum_of_squares / static_cast<double>(count));
  return result;
}

double MaxDifference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  return Difference(a, b).largest;
}

double LogitTolerance(device::DType dtype) {
  return dtype == device::DType::kF32 ? 5e-5 * TinyLinkSlack() : 0.1;
}

}  // namespace spillway::exec
