#include "tests/fakes/fake_executor.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"

namespace spillway::fakes {
namespace {

// splitmix64's finaliser over a combination of two words.
uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t Embed(text::TokenId token, int32_t position) {
  return Mix(static_cast<uint64_t>(token), static_cast<uint64_t>(position));
}

text::TokenId DrawFrom(uint64_t hidden, const device::SampleRow& row, int32_t vocab_size) {
  uint64_t key = hidden;
  if (row.temperature > 0) {
    key = Mix(Mix(key, row.seed), Mix(row.choice, static_cast<uint64_t>(row.position)));
  }
  if (row.repetition_penalty != 1) {
    for (int32_t i = 0; i < row.n_history; ++i) key = Mix(key, static_cast<uint64_t>(row.history[i]));
    key = Mix(key, static_cast<uint64_t>(row.n_prompt));
  }
  text::TokenId token = static_cast<text::TokenId>(key % static_cast<uint64_t>(vocab_size));
  const int32_t* const end = row.forbidden_ids + row.n_forbidden_ids;
  while (std::find(row.forbidden_ids, end, token) != end) token = (token + 1) % vocab_size;
  return token;
}

}  // namespace

void ReferenceModel::Append(text::TokenId token) {
  hidden_ = Embed(token, position_++);
  for (uint64_t& attended : attended_) {
    attended = Mix(attended, hidden_);
    hidden_ = Mix(hidden_, attended);
  }
}

text::TokenId ReferenceModel::Draw(const device::SampleRow& row, int32_t vocab_size) const {
  return DrawFrom(hidden_, row, vocab_size);
}

class FakeExecutor::Item final : public exec::WorkItem {
 public:
  explicit Item(const exec::ItemLimits& limits) : WorkItem(limits) {}

  struct Row {
    const exec::Segment* segment;
    int32_t position;
  };

  void Start(int32_t n_visits) {
    running_ = true;
    visits_done_ = 0;
    visits_total_ = n_visits;
  }
  void CountVisit() { ++visits_done_; }
  void Stop() { running_ = false; }

  std::vector<exec::Segment> segments;
  // Copies of what the segments borrow, to see that it does not change meanwhile.
  std::vector<std::vector<text::TokenId>> tokens;
  std::vector<std::vector<kv::BlockId>> tables;
  std::vector<Row> rows;
  std::vector<uint64_t> hidden;  // [rows]
  std::vector<kv::BlockId> pinned;
  std::vector<MonotonicNs> visit_ends_ns;  // of this run
  std::vector<device::SampleResult> results;
  exec::StepStats stats;
};

FakeExecutor::FakeExecutor(const FakeExecutorOptions& options, kv::BlockStore& blocks, ManualClock& clock)
    : options_(options),
      blocks_(blocks),
      clock_(clock),
      content_(static_cast<size_t>(options.n_layers * blocks.max_blocks() * options.block_tokens)) {}

FakeExecutor::~FakeExecutor() = default;

absl::StatusOr<std::unique_ptr<exec::WorkItem>> FakeExecutor::CreateWorkItem(const exec::ItemLimits& limits) {
  SPILLWAY_CHECK(limits.max_rows > 0 && limits.max_segments > 0 && limits.max_blocks > 0);
  return std::make_unique<Item>(limits);
}

uint64_t& FakeExecutor::Content(int32_t layer, kv::BlockId block, int32_t offset) {
  const int64_t n_blocks = blocks_.max_blocks();
  return content_[static_cast<size_t>((layer * n_blocks + block) * options_.block_tokens + offset)];
}

void FakeExecutor::Begin(exec::WorkItem& work_item, exec::Phase phase,
                         absl::Span<const exec::Segment> segments, const exec::SplitPlan& plan) {
  Item& item = static_cast<Item&>(work_item);
  const exec::ItemLimits& limits = item.limits();
  SPILLWAY_CHECK(!item.running() && !segments.empty());
  SPILLWAY_CHECK(segments.size() <= static_cast<size_t>(limits.max_segments));
  item.segments.assign(segments.begin(), segments.end());
  item.tokens.clear();
  item.tables.clear();
  item.rows.clear();
  item.visit_ends_ns.clear();
  int64_t n_blocks = 0;
  int32_t n_outputs = 0;
  for (const exec::Segment& segment : item.segments) {
    const int32_t n_rows = static_cast<int32_t>(segment.tokens.size());
    const int32_t end = segment.first_position + n_rows;
    SPILLWAY_CHECK(n_rows > 0);
    SPILLWAY_CHECK(static_cast<int64_t>(segment.blocks.size()) * options_.block_tokens >= end);
    SPILLWAY_CHECK(segment.output != exec::Output::kAllLogits);
    if (segment.output == exec::Output::kSample) {
      ++n_outputs;
      SPILLWAY_CHECK(segment.sample.position == end && segment.sample.n_history == end);
    }
    item.tokens.emplace_back(segment.tokens.begin(), segment.tokens.end());
    item.tables.emplace_back(segment.blocks.begin(), segment.blocks.end());
    for (int32_t row = 0; row < n_rows; ++row) item.rows.push_back({&segment, segment.first_position + row});
    n_blocks += static_cast<int64_t>(segment.blocks.size());
  }
  const int32_t n_rows = static_cast<int32_t>(item.rows.size());
  SPILLWAY_CHECK(n_rows <= limits.max_rows && n_blocks <= limits.max_blocks &&
                 n_outputs <= limits.max_outputs);
  CheckPlan(item, plan);
  CheckWrites(item);
  // As one that carries them does.
  for (const auto& [block, tokens] : CachedTokens(item.segments)) {
    if (tokens < options_.block_tokens) continue;
    blocks_.Pin(block);
    item.pinned.push_back(block);
  }
  item.hidden.assign(item.rows.size(), 0);
  const int32_t n_chunks = (n_rows + options_.chunk_rows - 1) / options_.chunk_rows;
  item.Start(n_chunks * options_.n_layers);
  running_.push_back(&item);
  most_running_ = std::max(most_running_, static_cast<int32_t>(running_.size()));

  most_segments_ = std::max(most_segments_, static_cast<int32_t>(segments.size()));
  item.stats = {};
  item.stats.phase = phase;
  item.stats.schedule = plan.schedule;
  item.stats.sequences = static_cast<int32_t>(segments.size());
  item.stats.rows = n_rows;
  item.stats.sampled_rows = n_outputs;
  item.stats.begin_ns = clock_.NowNs();
  item.stats.predicted_step_s = plan.predicted_step_s;
  item.stats.corrected_step_s = plan.corrected_step_s;
  if (options_.splits) CountCarried(plan.tokens, item.stats);
}

std::map<kv::BlockId, int32_t> FakeExecutor::CachedTokens(absl::Span<const exec::Segment> segments) const {
  std::map<kv::BlockId, int32_t> cached;
  for (const exec::Segment& segment : segments) {
    for (int32_t position = 0; position < segment.first_position; position += options_.block_tokens) {
      int32_t& tokens =
          cached[segment.blocks[static_cast<size_t>(position) / static_cast<size_t>(options_.block_tokens)]];
      tokens = std::max(tokens, std::min(segment.first_position - position, options_.block_tokens));
    }
  }
  return cached;
}

exec::BatchShape FakeExecutor::ShapeOf(exec::Phase phase, absl::Span<const exec::Segment> segments) {
  exec::BatchShape shape = Executor::ShapeOf(phase, segments);
  shape.weight_load_bytes = weight_pass_bytes();
  for (const auto& [block, tokens] : CachedTokens(segments)) {
    const bool full = tokens == options_.block_tokens;
    (!full            ? shape.resident_kv_tokens
     : block % 2 == 0 ? shape.host_both_tokens
                      : shape.host_kv_tokens) += tokens;
  }
  return shape;
}

void FakeExecutor::CheckPlan(const Item& item, const exec::SplitPlan& plan) {
  last_plan_ = plan;
  planned_steps_ += plan.solve_id != 0;
  if (options_.splits) {
    exec::BatchShape shape = ShapeOf(plan.shape.phase, item.segments);
    shape.weight_load_bytes = plan.shape.weight_load_bytes;
    const exec::TokenClasses& tokens = plan.tokens;
    const bool right =
        plan.shape == shape && tokens.resident_kv_tokens == shape.resident_kv_tokens &&
        tokens.carried_x_tokens <= shape.host_both_tokens && tokens.carried_x_tokens >= 0 &&
        tokens.carried_kv_tokens + tokens.carried_x_tokens == shape.host_kv_tokens + shape.host_both_tokens &&
        tokens.resident_x_tokens == 0 && tokens.host_attended_tokens == 0;
    distinct_mismatches_ += !right;
    return;
  }
  int64_t reads = 0;
  for (const exec::Segment& segment : item.segments) {
    for (size_t row = 0; row < segment.tokens.size(); ++row) {
      reads += segment.first_position + static_cast<int64_t>(row) + 1;
    }
  }
  int64_t distinct = 0;
  for (const auto& [block, tokens] : CachedTokens(item.segments)) distinct += tokens;
  const bool right = plan.tokens.resident_kv_tokens == distinct && plan.shape.reads_tokens == reads &&
                     plan.shape.new_tokens == static_cast<int32_t>(item.rows.size()) &&
                     plan.shape.sequences == static_cast<int32_t>(item.segments.size());
  distinct_mismatches_ += !right;
}

void FakeExecutor::CountCarried(const exec::TokenClasses& tokens, exec::StepStats& stats) const {
  stats.tokens = tokens;
  const auto carry = [&](exec::Lane lane, int64_t n_tokens, double ns) {
    exec::LaneStats& load = stats.lanes[static_cast<size_t>(lane)];
    load.busy_ns = static_cast<int64_t>(ns * static_cast<double>(n_tokens * options_.n_layers));
    load.bytes = n_tokens * options_.n_layers * (lane == exec::Lane::kXLoad ? 64 : 128);
  };
  carry(exec::Lane::kKvLoad, tokens.carried_kv_tokens, options_.carry_ns);
  carry(exec::Lane::kXLoad, tokens.carried_x_tokens, options_.carry_ns / 2);
}

void FakeExecutor::CheckWrites(const Item& item) const {
  const auto block_of = [this](const Item::Row& row) {
    return row.segment->blocks[static_cast<size_t>(row.position / options_.block_tokens)];
  };
  for (const Item::Row& row : item.rows) {
    const kv::BlockId block = block_of(row);
    SPILLWAY_CHECK_MSG(blocks_.references(block) == 1, "a row is written to a shared block");
    for (const Item* other : running_) {
      for (const Item::Row& other_row : other->rows) {
        SPILLWAY_CHECK_MSG(block_of(other_row) != block, "two running items write one block");
      }
    }
  }
}

double FakeExecutor::CostNs(const Item& item, int32_t first_row, int32_t n_rows) const {
  double reads = 0;
  for (int32_t r = first_row; r < first_row + n_rows; ++r) {
    reads += item.rows[static_cast<size_t>(r)].position + 1;
  }
  return options_.visit_ns + options_.row_ns * n_rows + options_.read_ns * reads;
}

double FakeExecutor::LoadNs(int32_t layer) {
  if (options_.weight_bytes == 0 || layer == held_layers_[0]) return 0;
  const bool held = layer == held_layers_[1];
  held_layers_ = {layer, held_layers_[0]};
  weight_loads_ += !held;
  return held ? 0 : options_.weight_ns;
}

absl::Status FakeExecutor::Visit(exec::WorkItem& work_item) {
  Item& item = static_cast<Item&>(work_item);
  SPILLWAY_CHECK(item.running() && !item.done());
  if (visits_to_failure_ == 0) return absl::InternalError("the fake device failed");
  if (visits_to_failure_ > 0) --visits_to_failure_;
  const int32_t n_rows = static_cast<int32_t>(item.rows.size());
  const int32_t n_chunks = (n_rows + options_.chunk_rows - 1) / options_.chunk_rows;
  const int32_t layer = item.visits_done() / n_chunks;
  const int32_t first_row = item.visits_done() % n_chunks * options_.chunk_rows;
  const int32_t chunk = std::min(n_rows - first_row, options_.chunk_rows);
  Compute(item, layer, first_row, chunk);

  // The device works in order; the caller runs ahead of it by so many visits of an item.
  const int64_t cost_ns = static_cast<int64_t>(LoadNs(layer) + CostNs(item, first_row, chunk));
  busy_until_ns_ = std::max(busy_until_ns_, clock_.NowNs()) + cost_ns;
  item.visit_ends_ns.push_back(busy_until_ns_);
  item.stats.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns += cost_ns;
  item.CountVisit();
  const size_t done = item.visit_ends_ns.size();
  const size_t ahead = static_cast<size_t>(options_.visits_in_flight);
  if (done > ahead) WaitUntil(item.visit_ends_ns[done - 1 - ahead]);
  ++visits_;
  rows_computed_ += layer == 0 ? chunk : 0;
  return absl::OkStatus();
}

void FakeExecutor::WaitUntil(MonotonicNs time) {
  if (time > clock_.NowNs()) clock_.AdvanceNs(time - clock_.NowNs());
}

void FakeExecutor::Compute(Item& item, int32_t layer, int32_t first_row, int32_t n_rows) {
  const exec::Segment* segment = nullptr;
  uint64_t attended = 0;
  for (int32_t r = first_row; r < first_row + n_rows; ++r) {
    const Item::Row& row = item.rows[static_cast<size_t>(r)];
    const auto content_at = [&](int32_t position) -> uint64_t& {
      const kv::BlockId block = row.segment->blocks[static_cast<size_t>(position / options_.block_tokens)];
      SPILLWAY_CHECK_MSG(blocks_.references(block) > 0, "a block is used that nobody holds");
      return Content(layer, block, position % options_.block_tokens);
    };
    if (row.segment != segment) {
      segment = row.segment;
      attended = 0;
      for (int32_t position = 0; position < row.position; ++position) {
        attended = Mix(attended, content_at(position));
      }
    }
    uint64_t& hidden = item.hidden[static_cast<size_t>(r)];
    if (layer == 0) {
      hidden =
          Embed(segment->tokens[static_cast<size_t>(row.position - segment->first_position)], row.position);
    }
    content_at(row.position) = hidden;
    attended = Mix(attended, hidden);
    hidden = Mix(hidden, attended);
  }
}

void FakeExecutor::Stop(Item& item) {
  for (const kv::BlockId block : item.pinned) blocks_.Unpin(block);
  item.pinned.clear();
  item.Stop();
  running_.erase(std::find(running_.begin(), running_.end(), &item));
}

absl::StatusOr<exec::StepResult> FakeExecutor::Finish(exec::WorkItem& work_item) {
  Item& item = static_cast<Item&>(work_item);
  SPILLWAY_CHECK(item.done());
  item.results.clear();
  size_t row = 0;
  for (size_t s = 0; s < item.segments.size(); ++s) {
    const exec::Segment& segment = item.segments[s];
    SPILLWAY_CHECK_MSG(std::equal(item.tokens[s].begin(), item.tokens[s].end(), segment.tokens.begin()),
                       "tokens changed while an item ran");
    SPILLWAY_CHECK_MSG(std::equal(item.tables[s].begin(), item.tables[s].end(), segment.blocks.begin()),
                       "a block table changed while an item ran");
    row += segment.tokens.size();
    if (segment.output != exec::Output::kSample) continue;
    device::SampleResult& result = item.results.emplace_back();
    result.token = DrawFrom(item.hidden[row - 1], segment.sample, options_.vocab_size);
    result.logprob = -0.5F;
    result.rank = 1;
    result.n_top = std::clamp(segment.sample.n_logprobs, 0, device::kMaxTopLogprobs);
    for (int32_t i = 0; i < result.n_top; ++i) result.top[i] = {result.token, -0.5F};
  }
  const int64_t head_ns = static_cast<int64_t>(options_.sample_ns * static_cast<double>(item.results.size()));
  busy_until_ns_ = std::max(busy_until_ns_, clock_.NowNs()) + head_ns;
  WaitUntil(busy_until_ns_);
  Stop(item);
  exec::StepStats& stats = item.stats;
  stats.head_ns = head_ns;
  stats.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns += head_ns;
  stats.visits = item.visits_total();
  stats.wall_ns = clock_.NowNs() - stats.begin_ns;
  stats.active_ns = stats.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns;
  return exec::StepResult{item.results, stats};
}

void FakeExecutor::Abandon(exec::WorkItem& work_item) {
  Item& item = static_cast<Item&>(work_item);
  SPILLWAY_CHECK(item.running());
  if (!item.visit_ends_ns.empty()) WaitUntil(item.visit_ends_ns.back());
  Stop(item);
}

absl::Span<const float> FakeExecutor::LogitsOf(const exec::WorkItem&, int32_t, int32_t) const { return {}; }

}  // namespace spillway::fakes
