// Draws one token a row, as the CPU's sampler does (ops.h, SampleRow, says in what order the filters apply):
// a block takes a row and passes over its logits a few times. Nothing is sorted: filters find the least
// likely logit that they keep digit by digit (a radix selection).
//
// Weights are integers, 2^-42 of the likeliest token's, so that their sums are exact and the same in any
// order: a draw depends on (seed, choice, position) and the logits alone.
#include <algorithm>
#include <cfloat>
#include <climits>
#include <cstring>

#include "engine/device/arithmetic/philox.h"
#include "engine/device/cuda/block_reduce.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/vector_access.h"
#include "engine/device/cuda/warp_scan.h"

namespace spillway::device::cuda {
namespace {

// Of a block: one for so many tokens, up to a limit.
constexpr int kTokensOfThread = 64;
constexpr int kThreadsMax = 512;
constexpr int kDigits = 256;
// Logits that a thread reads before it looks at the first: one block must keep enough of them under way.
constexpr int kLogitsAtOnce = 8;

using Measure = unsigned long long;
constexpr float kWholeWeight = 4398046511104.0F;  // 2^42

// Larger for likelier logits; both zeros have the same.
__device__ inline uint32_t OrderOf(float logit) {
  const uint32_t bits = logit == 0 ? 0 : __float_as_uint(logit);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ inline float LogitOf(uint32_t order) {
  return __uint_as_float((order & 0x80000000u) != 0 ? order & 0x7fffffffu : ~order);
}
// Not NaN and not +inf: those are never drawn.
__device__ inline bool IsValid(float logit) { return logit < INFINITY; }

// A set of tokens: those likelier than `order`, and of those exactly as likely the ids up to last_tie.
struct Kept {
  uint32_t order;
  int last_tie;

  __device__ bool Has(float logit, int token) const {
    if (!IsValid(logit)) return false;
    const uint32_t at = OrderOf(logit);
    return at > order || (at == order && token <= last_tie);
  }
};

struct Summary {
  float max;   // -inf: no token may be drawn
  int argmax;  // the lowest id that has it
  int n_invalid;
};

struct SampleShared {
  alignas(8) uint32_t task[sizeof(SampleTask) / 4];
  Measure histogram[kDigits];
  // Each warp's part of it. Logits share few digits, and an atomic sum of 64 bits spins: with one histogram
  // for the block all of its threads would wait for the same few words.
  Measure of_warp[kThreadsMax / kWarpThreads][kDigits];
  Measure scratch[kWarpsMax];
  Measure remaining;
  uint32_t digit;
  int last_tie;
  int token;
  int n_top;
  TokenLogprob top[kMaxTopLogprobs];
};

class RowSampler {
 public:
  __device__ RowSampler(SampleShared& shared, int vocab)
      : shared_(shared),
        vocab_(vocab),
        thread_(static_cast<int>(threadIdx.x)),
        threads_(static_cast<int>(blockDim.x)),
        warp_(thread_ / kWarpThreads),
        lane_(thread_ % kWarpThreads),
        warps_(threads_ / kWarpThreads) {}

  __device__ void Sample(const SampleTask& task, const float* logits, float* changed, SampleResult* result) {
    const SampleRow& row = task.row;
    const float* allowed = logits;
    if (changed != nullptr) {
      Change(task, logits, changed);
      allowed = changed;
    }
    const Summary summary = Summarise(allowed);
    int token = -1;
    if (summary.max != -INFINITY) {
      token = row.temperature > 0 ? Draw(row, allowed, summary.max) : summary.argmax;
    }
    SampleResult out{};
    out.token = token;
    out.n_invalid = summary.n_invalid;
    if (row.n_logprobs >= 0) Describe(row, logits, &out);
    if (thread_ == 0) *result = out;
  }

 private:
  template <typename Visit>
  __device__ void ForEach(const float* logits, const Visit& visit) const {
    for (int first = 0; first < vocab_; first += kLogitsAtOnce * threads_) {
      float logit[kLogitsAtOnce];
#pragma unroll
      for (int i = 0; i < kLogitsAtOnce; ++i) {
        const int token = first + i * threads_ + thread_;
        logit[i] = token < vocab_ ? logits[token] : 0.0F;
      }
#pragma unroll
      for (int i = 0; i < kLogitsAtOnce; ++i) {
        const int token = first + i * threads_ + thread_;
        if (token < vocab_) visit(token, logit[i]);
      }
    }
  }

  // Penalties, then what is forbidden: -inf. `changed` may be the logits themselves.
  __device__ void Change(const SampleTask& task, const float* logits, float* changed) {
    const SampleRow& row = task.row;
    if (changed != logits) ForEach(logits, [&](int token, float logit) { changed[token] = logit; });
    __syncthreads();
    if (task.counts != nullptr) Penalise(row, task.counts, changed);
    if (row.forbidden != nullptr) {
      for (int word = thread_; word * 32 < vocab_; word += threads_) {
        for (uint32_t bits = row.forbidden[word]; bits != 0; bits &= bits - 1) {
          const int token = word * 32 + __ffs(static_cast<int>(bits)) - 1;
          if (token < vocab_) changed[token] = -INFINITY;
        }
      }
    }
    __syncthreads();
    for (int i = thread_; i < row.n_forbidden_ids; i += threads_) {
      const int token = row.forbidden_ids[i];
      if (token >= 0 && token < vocab_) changed[token] = -INFINITY;
    }
    __syncthreads();
  }

  // counts [vocab], all 0 before: twice how often a token was generated, or 1 where only the prompt has it.
  __device__ void Penalise(const SampleRow& row, uint32_t* counts, float* changed) {
    const auto each = [&](int begin, int end, const auto& visit) {
      for (int i = begin + thread_; i < end; i += threads_) {
        const int token = row.history[i];
        if (token >= 0 && token < vocab_) visit(token);
      }
      __syncthreads();
    };
    each(row.n_prompt, row.n_history, [&](int token) { atomicAdd(&counts[token], 2u); });
    each(0, row.n_prompt < row.n_history ? row.n_prompt : row.n_history,
         [&](int token) { atomicCAS(&counts[token], 0u, 1u); });
    // Each token once: by the thread that takes its count away.
    each(0, row.n_history, [&](int token) {
      const uint32_t count = atomicExch(&counts[token], 0u);
      if (count == 0) return;
      float logit = changed[token];
      logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
      if (count > 1) {
        logit -= row.frequency_penalty * static_cast<float>(count / 2) + row.presence_penalty;
      }
      changed[token] = logit;
    });
  }

  __device__ Summary Summarise(const float* logits) {
    Measure best = 0;  // order, then the complement of the id: the lowest wins
    Measure n_invalid = 0;
    ForEach(logits, [&](int token, float logit) {
      if (!IsValid(logit)) {
        ++n_invalid;
        return;
      }
      const Measure at = (Measure{OrderOf(logit)} << 32) | ~static_cast<uint32_t>(token);
      if (at > best) best = at;
    });
    best = BlockReduce(best, Measure{0}, shared_.scratch, Maximum());
    n_invalid = BlockReduce(n_invalid, Measure{0}, shared_.scratch, Sum());
    Summary summary;
    summary.max = best == 0 ? -INFINITY : LogitOf(static_cast<uint32_t>(best >> 32));
    summary.argmax = static_cast<int>(~static_cast<uint32_t>(best));
    summary.n_invalid = static_cast<int>(n_invalid);
    return summary;
  }

  __device__ static Measure WeightOf(float logit, float max, float inverse_temperature) {
    return static_cast<Measure>(expf((logit - max) * inverse_temperature) * kWholeWeight);
  }

  // Of the tokens of `kept` the fewest and likeliest that measure `target` together, one at least. All where
  // they measure less.
  template <typename MeasureOf>
  __device__ Kept Select(const float* logits, const Kept& kept, Measure target, const MeasureOf& measure) {
    uint32_t prefix = 0;
    Measure remaining = target > 0 ? target : 1;
    Measure ties = 0;  // what those as likely as the last one measure together
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();
      for (int i = lane_; i < kDigits; i += kWarpThreads) shared_.of_warp[warp_][i] = 0;
      __syncwarp();
      ForEach(logits, [&](int token, float logit) {
        if (!kept.Has(logit, token)) return;
        const uint32_t order = OrderOf(logit);
        if (shift < 24 && (order >> (shift + 8)) != prefix) return;
        const Measure weight = measure(logit);
        if (weight > 0) atomicAdd(&shared_.of_warp[warp_][(order >> shift) & (kDigits - 1)], weight);
      });
      __syncthreads();
      for (int digit = thread_; digit < kDigits; digit += threads_) {
        Measure sum = 0;
        for (int warp = 0; warp < warps_; ++warp) sum += shared_.of_warp[warp][digit];
        shared_.histogram[digit] = sum;
      }
      __syncthreads();
      if (thread_ < kWarpThreads) FindDigit(remaining);
      __syncthreads();
      if (shared_.digit == kDigits) return kept;  // at the first digit only
      prefix = (prefix << 8) | shared_.digit;
      remaining = shared_.remaining;
      ties = shared_.histogram[shared_.digit];
    }
    const Measure each = measure(LogitOf(prefix));
    const Measure n_ties = (remaining + each - 1) / each;
    const int last_tie = prefix == kept.order ? kept.last_tie : INT_MAX;
    Kept selected{prefix, last_tie};
    if (n_ties * each < ties) selected.last_tie = FindTie(logits, selected, static_cast<int>(n_ties));
    return selected;
  }

  // By the first warp: the digit at which sums from the highest down reach `remaining`, and what of it then
  // remains. kDigits: they do not reach it.
  __device__ void FindDigit(Measure remaining) {
    constexpr int kDigitsOfLane = kDigits / kWarpThreads;
    const int first = kDigits - 1 - thread_ * kDigitsOfLane;  // of this lane, downwards
    Measure sum = 0;
    for (int i = 0; i < kDigitsOfLane; ++i) sum += shared_.histogram[first - i];
    const Measure end = WarpPrefixSum(sum);
    const unsigned reached = __ballot_sync(kWholeWarp, end >= remaining);
    if (reached == 0) {
      if (thread_ == 0) shared_.digit = kDigits;
      return;
    }
    if (thread_ != __ffs(static_cast<int>(reached)) - 1) return;
    Measure before = end - sum;
    int digit = first;
    while (before + shared_.histogram[digit] < remaining) before += shared_.histogram[digit--];
    shared_.digit = static_cast<uint32_t>(digit);
    shared_.remaining = remaining - before;
  }

  // The id of the n-th token, by id, of those that are exactly as likely as kept.order.
  __device__ int FindTie(const float* logits, const Kept& kept, int n) {
    int before = 0;
    for (int first = 0; first < vocab_; first += threads_) {
      const int token = first + thread_;
      const bool tie = token <= kept.last_tie && token < vocab_ && IsValid(logits[token]) &&
                       OrderOf(logits[token]) == kept.order;
      const Measure in_warp = WarpPrefixSum(Measure{tie ? 1u : 0u});
      __syncthreads();
      if (thread_ % kWarpThreads == kWarpThreads - 1) shared_.scratch[thread_ / kWarpThreads] = in_warp;
      __syncthreads();
      int rank = before + static_cast<int>(in_warp);
      for (int warp = 0; warp < warps_; ++warp) {
        const int ties = static_cast<int>(shared_.scratch[warp]);
        if (warp < thread_ / kWarpThreads) rank += ties;
        before += ties;
      }
      if (tie && rank == n) shared_.last_tie = token;
      if (before >= n) break;
    }
    __syncthreads();
    return shared_.last_tie;
  }

  __device__ int Draw(const SampleRow& row, const float* logits, float max) {
    const float inverse_temperature = 1 / fmaxf(row.temperature, 1e-6F);
    const auto weight = [&](float logit) { return WeightOf(logit, max, inverse_temperature); };
    Kept kept{OrderOf(-FLT_MAX), INT_MAX};
    if (row.min_p > 0) {
      const float least = max + logf(fminf(row.min_p, 1.0F)) / inverse_temperature;
      kept.order = OrderOf(fmaxf(least, -FLT_MAX));
    }
    if (row.top_k > 0 && row.top_k < vocab_) {
      kept = Select(logits, kept, static_cast<Measure>(row.top_k), [](float) { return Measure{1}; });
    }
    if (row.top_p < 1) {
      const double mass = static_cast<double>(row.top_p) * static_cast<double>(MassOf(logits, kept, weight));
      kept = Select(logits, kept, static_cast<Measure>(ceil(mass)), weight);
    }
    return DrawFrom(logits, kept, weight, UniformDraw(row.seed, row.choice, row.position));
  }

  template <typename Weight>
  __device__ Measure MassOf(const float* logits, const Kept& kept, const Weight& weight) {
    Measure mass = 0;
    ForEach(logits, [&](int token, float logit) {
      if (kept.Has(logit, token)) mass += weight(logit);
    });
    return BlockReduce(mass, Measure{0}, shared_.scratch, Sum());
  }

  // Weights are laid end to end by id; each warp has a run of ids.
  template <typename Weight>
  __device__ int DrawFrom(const float* logits, const Kept& kept, const Weight& weight, double draw) {
    const int lane = thread_ % kWarpThreads;
    const int warp = thread_ / kWarpThreads;
    const int run = (vocab_ + threads_ - 1) / threads_ * kWarpThreads;
    const int begin = warp * run;
    const int end = begin + run < vocab_ ? begin + run : vocab_;
    const auto weight_at = [&](int token) {
      return token < end && kept.Has(logits[token], token) ? weight(logits[token]) : Measure{0};
    };
    Measure own = 0;
    for (int first = begin; first < end; first += kWarpThreads) own += weight_at(first + lane);
    own = WarpReduce(own, Sum());
    __syncthreads();
    if (lane == 0) shared_.scratch[warp] = own;
    __syncthreads();
    Measure total = 0;
    Measure before = 0;
    for (int i = 0; i < warps_; ++i) {
      total += shared_.scratch[i];
      if (i < warp) before += shared_.scratch[i];
    }
    Measure target = static_cast<Measure>(draw * static_cast<double>(total));
    if (target >= total) target = total - 1;
    if (target >= before && target < before + own) {
      for (int first = begin; first < end; first += kWarpThreads) {
        const Measure sum = before + WarpPrefixSum(weight_at(first + lane));
        const unsigned passed = __ballot_sync(kWholeWarp, sum > target);
        if (passed != 0) {
          if (lane == 0) shared_.token = first + __ffs(static_cast<int>(passed)) - 1;
          break;
        }
        before = __shfl_sync(kWholeWarp, sum, kWarpThreads - 1);
      }
    }
    __syncthreads();
    return shared_.token;
  }

  // Logprobs and rank under the model's own distribution.
  __device__ void Describe(const SampleRow& row, const float* logits, SampleResult* out) {
    const Summary summary = Summarise(logits);
    if (summary.max == -INFINITY) return;
    const Kept all{OrderOf(-FLT_MAX), INT_MAX};
    const Measure mass = MassOf(logits, all, [&](float logit) { return WeightOf(logit, summary.max, 1); });
    const double log_sum = log(static_cast<double>(mass) / static_cast<double>(kWholeWeight));
    const auto logprob = [&](float logit) {
      return static_cast<float>(static_cast<double>(logit) - static_cast<double>(summary.max) - log_sum);
    };
    if (out->token >= 0) {
      const float drawn = logits[out->token];
      Measure likelier = 0;
      ForEach(logits, [&](int, float logit) { likelier += IsValid(logit) && logit > drawn ? 1 : 0; });
      out->logprob = logprob(drawn);
      out->rank = 1 + static_cast<int>(BlockReduce(likelier, Measure{0}, shared_.scratch, Sum()));
    }
    int n_top = row.n_logprobs < kMaxTopLogprobs ? row.n_logprobs : kMaxTopLogprobs;
    if (n_top > vocab_) n_top = vocab_;
    if (n_top == 0) return;
    const Kept likeliest = Select(logits, all, static_cast<Measure>(n_top), [](float) { return Measure{1}; });
    __syncthreads();
    if (thread_ == 0) shared_.n_top = 0;
    __syncthreads();
    ForEach(logits, [&](int token, float logit) {
      if (likeliest.Has(logit, token)) shared_.top[atomicAdd(&shared_.n_top, 1)] = {token, logit};
    });
    __syncthreads();
    if (thread_ != 0) return;
    // At most kMaxTopLogprobs: in order, one after the other.
    for (int i = 0; i < shared_.n_top; ++i) {
      const TokenLogprob item = shared_.top[i];
      int at = i;
      for (; at > 0 && Likelier(item, out->top[at - 1]); --at) out->top[at] = out->top[at - 1];
      out->top[at] = item;
    }
    out->n_top = shared_.n_top;
    for (int i = 0; i < out->n_top; ++i) out->top[i].logprob = logprob(out->top[i].logprob);
  }

  // Of items that hold logits.
  __device__ static bool Likelier(const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
  }

  SampleShared& shared_;
  const int vocab_;
  const int thread_;
  const int threads_;
  const int warp_;
  const int lane_;
  const int warps_;
};

__global__ void SampleKernel(SampleLaunch launch) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  SampleShared& shared = SharedAs<SampleShared>();
  // Tasks lie in the host's memory: each is read once.
  static_assert(sizeof(SampleTask) % 4 == 0);
  const uint32_t* words = reinterpret_cast<const uint32_t*>(launch.tasks + blockIdx.x);
  for (unsigned i = threadIdx.x; i < sizeof(SampleTask) / 4; i += blockDim.x) shared.task[i] = words[i];
  __syncthreads();
  SampleTask task;
  memcpy(&task, shared.task, sizeof(task));
  const float* logits = launch.logits + int64_t{task.index} * launch.vocab;
  float* changed = task.changed;
  if (task.changes_in_place) changed = const_cast<float*>(logits);
  RowSampler sampler(shared, launch.vocab);
  sampler.Sample(task, logits, changed, &launch.results[task.index]);
}

}  // namespace

cudaError_t LaunchSample(const SampleLaunch& launch, KernelStream stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(launch.n_tasks));
  const int64_t warps = CeilDivide(launch.vocab, kTokensOfThread * kWarpThreads);
  shape.block = dim3(static_cast<unsigned>(std::min<int64_t>(warps * kWarpThreads, kThreadsMax)));
  shape.shared_bytes = sizeof(SampleShared);
  return Launch(SampleKernel, shape, stream, launch);
}

}  // namespace spillway::device::cuda
