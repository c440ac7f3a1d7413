#include "engine/device/cpu/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "engine/device/arithmetic/philox.h"
#include "engine/device/cpu/address.h"

namespace spillway::device {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Finds every valid logit but those that are forbidden (-inf).
constexpr float kAnyLogit = std::numeric_limits<float>::lowest();
// Kernels write whole vectors.
constexpr size_t kSlack = 16;
// An unfiltered draw sums weights in blocks and looks into one of them only.
constexpr int64_t kDrawBlock = 1024;

struct Weighted {
  float logit;
  int32_t token;
  float weight;
};

// The most likely first; among equals the lowest id.
bool Likelier(const Weighted& a, const Weighted& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

bool HasPenalty(const SampleRow& row) {
  return row.n_history > 0 &&
         (row.repetition_penalty != 1 || row.frequency_penalty != 0 || row.presence_penalty != 0);
}

// Reorders `items` so that the shortest run of the likeliest whose weights reach `mass` comes first, and
// returns its length (at least 1). Expected linear time: quickselect by mass.
size_t SelectMass(std::vector<Weighted>& items, double mass) {
  size_t begin = 0;
  size_t end = items.size();
  double before = 0;  // weight of items[0, begin), all of them in
  while (end - begin > 16) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(items.begin() + begin, items.begin() + middle, items.begin() + end, Likelier);
    double left = 0;
    for (size_t i = begin; i < middle; ++i) left += static_cast<double>(items[i].weight);
    if (before + left >= mass) {
      end = middle;
    } else {
      before += left;
      begin = middle;
    }
  }
  std::sort(items.begin() + begin, items.begin() + end, Likelier);
  size_t length = begin;
  while (length < end) {
    before += static_cast<double>(items[length++].weight);
    if (before >= mass) break;
  }
  return std::max<size_t>(length, 1);
}

}  // namespace

// Samples rows with one thread's working memory.
class CpuSampler::RowSampler {
 public:
  explicit RowSampler(const Kernels& kernels) : kernels_(kernels) {}

  void Reserve(int64_t vocab) {
    const size_t n = static_cast<size_t>(vocab) + kSlack;
    if (modified_.size() >= n) return;
    modified_.resize(n);
    weights_.resize(n);
    values_.resize(n);
    tokens_.resize(n);
    counts_.resize(n);
    block_sums_.resize(n / kDrawBlock + 1);
    items_.reserve(n);
  }

  void Sample(const SampleRow& row, const float* logits, int64_t vocab, SampleResult* result) {
    *result = {};
    const bool untouched = !HasPenalty(row) && row.forbidden == nullptr && row.n_forbidden_ids == 0;
    const float* allowed = untouched ? logits : Modify(row, logits, vocab);
    const LogitSummary summary = kernels_.summarise(allowed, vocab);
    result->n_invalid = static_cast<int32_t>(summary.n_invalid);
    if (summary.argmax < 0) {
      result->token = -1;
    } else {
      result->token = row.temperature > 0 ? Draw(row, allowed, vocab, summary.max) : summary.argmax;
    }
    if (row.n_logprobs >= 0) Describe(row, logits, vocab, result);
  }

 private:
  // A copy of the logits with penalties applied and forbidden tokens at -inf.
  const float* Modify(const SampleRow& row, const float* logits, int64_t vocab) {
    std::copy_n(logits, vocab, modified_.begin());
    if (HasPenalty(row)) Penalise(row, vocab);
    if (row.forbidden != nullptr) {
      for (int64_t word = 0; word * 32 < vocab; ++word) {
        for (uint32_t bits = row.forbidden[word]; bits != 0; bits &= bits - 1) {
          const int64_t token = word * 32 + __builtin_ctz(bits);
          if (token < vocab) modified_[static_cast<size_t>(token)] = kMinusInfinity;
        }
      }
    }
    for (int32_t i = 0; i < row.n_forbidden_ids; ++i) {
      const int32_t token = row.forbidden_ids[i];
      if (token >= 0 && token < vocab) modified_[static_cast<size_t>(token)] = kMinusInfinity;
    }
    return modified_.data();
  }

  void Penalise(const SampleRow& row, int64_t vocab) {
    constexpr uint32_t kSeen = uint32_t{1} << 31;
    const auto in_vocabulary = [vocab](int32_t token) { return token >= 0 && token < vocab; };
    for (int32_t i = 0; i < row.n_history; ++i) {
      if (!in_vocabulary(row.history[i])) continue;
      uint32_t& count = counts_[static_cast<size_t>(row.history[i])];
      count = (count | kSeen) + (i >= row.n_prompt ? 1 : 0);
    }
    // Each token once; what was counted is cleared again on the way.
    for (int32_t i = 0; i < row.n_history; ++i) {
      if (!in_vocabulary(row.history[i])) continue;
      const size_t token = static_cast<size_t>(row.history[i]);
      if (counts_[token] == 0) continue;
      const uint32_t generated = counts_[token] & ~kSeen;
      counts_[token] = 0;
      float& logit = modified_[token];
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
      if (generated > 0)
        logit -= row.frequency_penalty * static_cast<float>(generated) + row.presence_penalty;
    }
  }

  int32_t Draw(const SampleRow& row, const float* logits, int64_t vocab, float max) {
    const float inverse_temperature = 1 / std::max(row.temperature, 1e-6F);
    const double draw = UniformDraw(row.seed, row.choice, row.position);
    const bool top_k = row.top_k > 0 && row.top_k < vocab;
    if (!top_k && row.min_p <= 0 && row.top_p >= 1) {
      return DrawFromAll(logits, vocab, max, inverse_temperature, draw);
    }
    // What top_k and min_p leave, or a part that must hold what top_p leaves.
    double mass = 0;
    float least = kAnyLogit;
    if (row.min_p > 0)
      least = std::max(least, max + std::log(std::min(row.min_p, 1.0F)) / inverse_temperature);
    if (top_k) {
      least = std::max(least, HoldsCount(logits, vocab, max, row.top_k));
      CollectItems(logits, vocab, least, max, inverse_temperature);
      if (static_cast<size_t>(row.top_k) < items_.size()) {
        std::nth_element(items_.begin(), items_.begin() + row.top_k, items_.end(), Likelier);
        items_.resize(static_cast<size_t>(row.top_k));
      }
    } else if (row.min_p > 0) {
      CollectItems(logits, vocab, least, max, inverse_temperature);
    } else {
      mass = row.top_p * kernels_.sum_exp(logits, vocab, max, inverse_temperature);
      CollectMass(logits, vocab, max, inverse_temperature, mass);
    }
    if (row.top_p < 1) {
      if (top_k || row.min_p > 0) mass = row.top_p * ItemsMass();
      items_.resize(SelectMass(items_, mass));
    }
    return DrawFromItems(draw);
  }

  // A threshold that at least `count` logits reach, near the one that exactly `count` reach.
  float HoldsCount(const float* logits, int64_t vocab, float max, int64_t count) const {
    for (float below : {4.0F, 8.0F, 16.0F}) {
      const float least = max - below;
      // Strictly above is enough, and counts none twice.
      if (kernels_.count_above(logits, vocab, least) >= count) return least;
    }
    return kAnyLogit;
  }

  void CollectItems(const float* logits, int64_t vocab, float least, float max, float inverse_temperature) {
    const int64_t n = kernels_.collect(logits, vocab, least, values_.data(), tokens_.data());
    kernels_.exp_weights(values_.data(), n, max, inverse_temperature, weights_.data());
    items_.clear();
    for (size_t i = 0; i < static_cast<size_t>(n); ++i)
      items_.push_back({values_[i], tokens_[i], weights_[i]});
  }

  // Collects the likeliest items, at least as many as weigh `mass`.
  void CollectMass(const float* logits, int64_t vocab, float max, float inverse_temperature, double mass) {
    for (float below : {2.0F, 5.0F, 10.0F}) {
      CollectItems(logits, vocab, std::max(kAnyLogit, max - below / inverse_temperature), max,
                   inverse_temperature);
      if (ItemsMass() >= mass) return;
    }
    CollectItems(logits, vocab, kAnyLogit, max, inverse_temperature);
  }

  double ItemsMass() const {
    double mass = 0;
    for (const Weighted& item : items_) mass += static_cast<double>(item.weight);
    return mass;
  }

  // By ids, so that the draw depends on the distribution alone and not on how its filters were computed.
  int32_t DrawFromItems(double draw) {
    std::sort(items_.begin(), items_.end(),
              [](const Weighted& a, const Weighted& b) { return a.token < b.token; });
    const double target = draw * ItemsMass();
    double sum = 0;
    int32_t last = items_.front().token;
    for (const Weighted& item : items_) {
      if (item.weight == 0) continue;
      last = item.token;
      sum += static_cast<double>(item.weight);
      if (sum > target) break;
    }
    return last;
  }

  int32_t DrawFromAll(const float* logits, int64_t vocab, float max, float inverse_temperature, double draw) {
    const int64_t blocks = (vocab + kDrawBlock - 1) / kDrawBlock;
    const auto width = [vocab](int64_t block) { return std::min(kDrawBlock, vocab - block * kDrawBlock); };
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      block_sums_[static_cast<size_t>(b)] =
          kernels_.sum_exp(logits + b * kDrawBlock, width(b), max, inverse_temperature);
      total += block_sums_[static_cast<size_t>(b)];
    }
    double target = draw * total;
    int64_t block = 0;
    // The last block that weighs anything ends the search, however sums were rounded.
    int64_t last_block = blocks - 1;
    while (last_block > 0 && block_sums_[static_cast<size_t>(last_block)] == 0) --last_block;
    while (block < last_block && target >= block_sums_[static_cast<size_t>(block)]) {
      target -= block_sums_[static_cast<size_t>(block++)];
    }
    kernels_.exp_weights(logits + block * kDrawBlock, width(block), max, inverse_temperature,
                         weights_.data());
    int64_t last = 0;
    for (int64_t i = 0; i < width(block); ++i) {
      const double weight = static_cast<double>(weights_[static_cast<size_t>(i)]);
      if (weight == 0) continue;
      last = i;
      target -= weight;
      if (target < 0) break;
    }
    return static_cast<int32_t>(block * kDrawBlock + last);
  }

  // Logprobs and rank under the model's own distribution.
  void Describe(const SampleRow& row, const float* logits, int64_t vocab, SampleResult* result) {
    const LogitSummary summary = kernels_.summarise(logits, vocab);
    if (summary.argmax < 0) return;
    const double log_sum = std::log(kernels_.sum_exp(logits, vocab, summary.max, 1));
    const auto logprob = [&](float logit) {
      return static_cast<float>(static_cast<double>(logit) - static_cast<double>(summary.max) - log_sum);
    };
    if (result->token >= 0) {
      const float logit = logits[result->token];
      result->logprob = logprob(logit);
      result->rank = static_cast<int32_t>(1 + kernels_.count_above(logits, vocab, logit));
    }
    const int64_t n_top = std::min<int64_t>({row.n_logprobs, kMaxTopLogprobs, vocab});
    if (n_top == 0) return;
    CollectItems(logits, vocab, HoldsCount(logits, vocab, summary.max, n_top), summary.max, 1);
    const size_t n = std::min(items_.size(), static_cast<size_t>(n_top));
    std::partial_sort(items_.begin(), items_.begin() + n, items_.end(), Likelier);
    result->n_top = static_cast<int32_t>(n);
    for (size_t i = 0; i < n; ++i) result->top[i] = {items_[i].token, logprob(items_[i].logit)};
  }

  const Kernels& kernels_;
  std::vector<float> modified_;
  std::vector<float> weights_;
  std::vector<float> values_;
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> counts_;  // all 0 between rows
  std::vector<double> block_sums_;
  std::vector<Weighted> items_;
};

CpuSampler::CpuSampler(const Kernels& kernels, ThreadTeam& team) : kernels_(kernels), team_(team) {
  for (int32_t thread = 0; thread < team.threads(); ++thread) rows_.emplace_back(kernels_);
}
CpuSampler::~CpuSampler() = default;

void CpuSampler::Sample(const SampleArgs& args) {
  SPILLWAY_CHECK(args.vocab > 0);
  for (RowSampler& row : rows_) row.Reserve(args.vocab);
  const float* logits = At<const float>(args.logits);
  team_.Tasks(true, args.rows, [&](const auto& take, int32_t thread) {
    for (int64_t r = take(); r < args.rows; r = take()) {
      rows_[static_cast<size_t>(thread)].Sample(args.sample[r], logits + r * args.vocab, args.vocab,
                                                &args.results[r]);
    }
  });
}

}  // namespace spillway::device
