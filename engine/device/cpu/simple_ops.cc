#include "engine/device/cpu/simple_ops.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <vector>

namespace spillway::device {
namespace {

float Get(float v) { return v; }
float Get(BFloat16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }
void Put(float v, float* out) { *out = v; }
void Put(float v, BFloat16* out) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  out->bits = std::isnan(v) ? static_cast<uint16_t>((bits >> 16) | 0x40U)
                            : static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

template <typename T>
T* As(DevicePtr p) {
  return reinterpret_cast<T*>(p.address);
}

template <typename T>
T* Plane(const SlotArena& arena, int64_t slot) {
  return As<T>(arena.base + slot * arena.slot_bytes);
}

float Activate(Activation a, float x) {
  switch (a) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return std::max(x, 0.0F);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return 0.5F * x * (1 + std::erf(x * 0.70710678F));
  }
  return x;
}

}  // namespace

template <typename T>
void SimpleOps<T>::Embed(const EmbedArgs& args) {
  const int32_t* ids = As<const int32_t>(args.ids);
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t i = 0; i < args.d; ++i)
      As<float>(args.hidden)[r * args.d + i] =
          Get(As<const T>(args.table)[int64_t{ids[r]} * args.d + i]) * args.scale;
}

template <typename T>
void SimpleOps<T>::AddNorm(const AddNormArgs& args) {
  const int64_t d = args.d;
  for (int64_t r = 0; r < args.rows; ++r) {
    const int64_t s = args.row_index ? As<const int32_t>(args.row_index)[r] : r;
    float* h = As<float>(args.hidden) + s * d;
    if (args.addend)
      for (int64_t i = 0; i < d; ++i) h[i] += Get(As<const T>(args.addend)[s * d + i]);
    double sum = 0;
    for (int64_t i = 0; i < d; ++i) sum += h[i];
    const float mean =
        args.kind == NormKind::kLayer ? static_cast<float>(sum / static_cast<double>(d)) : 0.0F;
    double squares = 0;
    for (int64_t i = 0; i < d; ++i) squares += static_cast<double>(h[i] - mean) * (h[i] - mean);
    const float scale = 1 / std::sqrt(static_cast<float>(squares / static_cast<double>(d)) + args.epsilon);
    for (int64_t i = 0; i < d; ++i) {
      const float b = args.bias ? As<const float>(args.bias)[i] : 0;
      Put((h[i] - mean) * scale * As<const float>(args.gain)[i] + b, As<T>(args.out) + r * d + i);
    }
  }
}

// Packed as the plain [n, k] matrix in T.
template <typename T>
void SimpleOps<T>::Gemm(const PackedMatrix& weight, const GemmArgs& args) {
  const T* w = As<const T>(weight.data);
#pragma omp parallel for
  for (int64_t j = 0; j < weight.n; ++j) {
    for (int64_t r = 0; r < args.rows; ++r) {
      float sum = 0;
      const T* x = As<const T>(args.in) + r * weight.k;
      for (int64_t i = 0; i < weight.k; ++i) sum += Get(x[i]) * Get(w[j * weight.k + i]);
      if (args.bias) sum += As<const float>(args.bias)[j];
      sum = Activate(args.activation, sum);
      const int64_t at = r * weight.n + j;
      if (args.out_dtype == DType::kF32) {
        As<float>(args.out)[at] = args.accumulate ? As<float>(args.out)[at] + sum : sum;
      } else {
        Put(sum, As<T>(args.out) + at);
      }
    }
  }
}

template <typename T>
void SimpleOps<T>::RopeAppend(const RopeAppendArgs& args) {
  const int64_t width = int64_t{args.n_heads + 2 * args.n_kv_heads} * args.d_head;
  const int64_t pairs = args.rope_dims / 2;
  const AppendRow* append = As<const AppendRow>(args.append);
  const auto rotate = [&](T* head, int32_t position) {
    if (args.style == RopeStyle::kNone) return;
    for (int64_t i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(position) * As<const float>(args.inverse_frequency)[i];
      const float c = std::cos(angle);
      const float s = std::sin(angle);
      T* a = args.style == RopeStyle::kInterleaved ? head + 2 * i : head + i;
      T* b = args.style == RopeStyle::kInterleaved ? a + 1 : a + pairs;
      const float x = Get(*a);
      const float y = Get(*b);
      Put(x * c - y * s, a);
      Put(x * s + y * c, b);
    }
  };
  for (int64_t r = 0; r < args.rows; ++r) {
    T* row = As<T>(args.qkv) + r * width;
    for (int64_t h = 0; h < args.n_heads; ++h) rotate(row + h * args.d_head, append[r].position);
    for (int64_t h = 0; h < args.n_kv_heads; ++h) {
      T* k = row + (args.n_heads + h) * args.d_head;
      T* v = k + int64_t{args.n_kv_heads} * args.d_head;
      const int64_t at = (h * args.block_tokens + append[r].offset_tokens) * args.d_head;
      T* k_out = Plane<T>(args.arena, append[r].k_slot) + at;
      std::memcpy(k_out, k, sizeof(T) * args.d_head);
      rotate(k_out, append[r].position);
      std::memcpy(Plane<T>(args.arena, append[r].v_slot) + at, v, sizeof(T) * args.d_head);
    }
    if (args.x && append[r].x_slot >= 0) {
      std::memcpy(Plane<T>(args.arena, append[r].x_slot) + int64_t{append[r].offset_tokens} * args.d,
                  As<const T>(args.x) + r * args.d, sizeof(T) * args.d);
    }
  }
}

template <typename T>
void SimpleOps<T>::PartialAttention(const PartialAttentionArgs& args) {
  const AttentionSequence* sequences = As<const AttentionSequence>(args.sequences);
  const AttentionBlock* blocks = As<const AttentionBlock>(args.blocks);
  const int64_t group = args.n_heads / args.n_kv_heads;
  for (int32_t s = 0; s < args.n_sequences; ++s) {
    const AttentionSequence& sequence = sequences[s];
#pragma omp parallel for collapse(2)
    for (int64_t i = 0; i < sequence.n_rows; ++i) {
      for (int64_t h = 0; h < args.n_heads; ++h) {
        const int64_t row = sequence.first_row + i;
        const int64_t kv = h / group;
        const T* q = As<const T>(args.q) + row * args.q_stride + h * args.d_head;
        float* acc = As<float>(args.acc) + (row * args.n_heads + h) * args.d_head;
        float max = -std::numeric_limits<float>::infinity();
        float sum = 0;
        std::fill(acc, acc + args.d_head, 0.0F);
        const int64_t end = std::min<int64_t>(sequence.key_end, sequence.first_position + i + 1);
        for (int64_t p = sequence.key_begin; p < end; ++p) {
          const int64_t offset = p - sequence.key_begin;
          const AttentionBlock& block = blocks[sequence.first_block + offset / args.block_tokens];
          const int64_t at = (kv * args.block_tokens + offset % args.block_tokens) * args.d_head;
          const T* k = Plane<const T>(args.arena, block.k_slot) + at;
          const T* v = Plane<const T>(args.arena, block.v_slot) + at;
          float score = 0;
          for (int64_t e = 0; e < args.d_head; ++e) score += Get(q[e]) * Get(k[e]);
          score *= args.scale;
          if (score > max) {
            const float rescale = std::exp(max - score);
            sum *= rescale;
            for (int64_t e = 0; e < args.d_head; ++e) acc[e] *= rescale;
            max = score;
          }
          const float weight = std::exp(score - max);
          sum += weight;
          for (int64_t e = 0; e < args.d_head; ++e) acc[e] += weight * Get(v[e]);
        }
        As<float>(args.max)[row * args.n_heads + h] = max;
        As<float>(args.sum)[row * args.n_heads + h] = sum;
      }
    }
  }
}

template <typename T>
void SimpleOps<T>::MergeAttention(const MergeAttentionArgs& args) {
  for (int64_t at = 0; at < int64_t{args.rows} * args.n_heads; ++at) {
    const int64_t stride = args.part_stride_rows * args.n_heads;
    float max = -std::numeric_limits<float>::infinity();
    for (int64_t p = 0; p < args.n_parts; ++p)
      max = std::max(max, As<const float>(args.max)[at + p * stride]);
    float sum = 0;
    std::vector<float> out(args.d_head, 0.0F);
    for (int64_t p = 0; p < args.n_parts; ++p) {
      if (As<const float>(args.sum)[at + p * stride] == 0) continue;
      const float w = std::exp(As<const float>(args.max)[at + p * stride] - max);
      sum += w * As<const float>(args.sum)[at + p * stride];
      for (int64_t e = 0; e < args.d_head; ++e)
        out[e] += w * As<const float>(args.acc)[(at + p * stride) * args.d_head + e];
    }
    for (int64_t e = 0; e < args.d_head; ++e)
      Put(sum > 0 ? out[e] / sum : 0.0F, As<T>(args.out) + at * args.d_head + e);
  }
}

template <typename T>
void SimpleOps<T>::GatedActivation(const GatedActivationArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const T* gate = As<const T>(args.gate_up) + r * 2 * args.d_ff;
    for (int64_t i = 0; i < args.d_ff; ++i)
      Put(Activate(args.activation, Get(gate[i])) * Get(gate[args.d_ff + i]),
          As<T>(args.out) + r * args.d_ff + i);
  }
}

template struct SimpleOps<float>;
template struct SimpleOps<BFloat16>;

void SimpleSample(const SampleArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const SampleRow& row = args.sample[r];
    SampleResult& result = args.results[r];
    const float* original = As<const float>(args.logits) + r * args.vocab;
    std::vector<double> logits(original, original + args.vocab);
    // logprobs
    double top = -std::numeric_limits<double>::infinity();
    for (double l : logits) top = std::max(top, l);
    double z = 0;
    for (double l : logits) z += std::exp(l - top);
    std::unordered_map<int32_t, int32_t> counts;
    for (int32_t i = 0; i < row.n_history; ++i) counts[row.history[i]] += i >= row.n_prompt ? 1 : 0;
    for (auto [id, count] : counts) {
      double& l = logits[id];
      l = l > 0 ? l / row.repetition_penalty : l * row.repetition_penalty;
      l -= row.frequency_penalty * static_cast<float>(count) +
           row.presence_penalty * (count > 0 ? 1.0F : 0.0F);
    }
    const double none = -std::numeric_limits<double>::infinity();
    for (int32_t i = 0; i < args.vocab; ++i)
      if (std::isnan(logits[i]) ||
          (row.forbidden != nullptr && ((row.forbidden[i / 32] >> (i % 32)) & 1U) != 0))
        logits[i] = none;
    for (int32_t i = 0; i < row.n_forbidden_ids; ++i) logits[row.forbidden_ids[i]] = none;
    std::vector<int32_t> order(args.vocab);
    for (int32_t i = 0; i < args.vocab; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    result.token = order[0];
    if (row.temperature > 0) {
      size_t keep = row.top_k > 0 ? std::min<size_t>(row.top_k, order.size()) : order.size();
      std::vector<double> weights(keep);
      double sum = 0;
      for (size_t i = 0; i < keep; ++i) {
        weights[i] = std::exp((logits[order[i]] - logits[order[0]]) / row.temperature);
        if (weights[i] < row.min_p) weights[i] = 0;
        sum += weights[i];
      }
      double mass = 0;
      size_t last = 0;
      while (last < keep && mass < row.top_p * sum) mass += weights[last++];
      uint64_t x = row.seed * 0x9E3779B97F4A7C15ULL + row.choice * 0xBF58476D1CE4E5B9ULL +
                   static_cast<uint64_t>(row.position) * 0x94D049BB133111EBULL;
      x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
      x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
      x ^= x >> 31;
      double u = static_cast<double>(x >> 11) * 0x1p-53 * mass;
      for (size_t i = 0; i < last; ++i) {
        result.token = order[i];
        u -= weights[i];
        if (u < 0) break;
      }
    }
    result.logprob = static_cast<float>(original[result.token] - top - std::log(z));
    result.rank = 1;
    for (int32_t i = 0; i < args.vocab; ++i) result.rank += original[i] > original[result.token] ? 1 : 0;
    result.n_top = std::clamp(row.n_logprobs, 0, std::min(kMaxTopLogprobs, args.vocab));
    std::partial_sort(order.begin(), order.begin() + result.n_top, order.end(), [&](int32_t a, int32_t b) {
      return original[a] != original[b] ? original[a] > original[b] : a < b;
    });
    for (int32_t i = 0; i < result.n_top; ++i)
      result.top[i] = {order[i], static_cast<float>(original[order[i]] - top - std::log(z))};
  }
}

}  // namespace spillway::device
