// Passes over one row of logits, over any simd_*.h. A logit is valid if it is less than +inf, which NaN is
// not.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_SAMPLING_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_SAMPLING_H_

namespace spillway::device {
namespace {

SPILLWAY_SIMD Mask Valid(F logit) { return Less(logit, Splat(kInfinity)); }

SPILLWAY_SIMD F LoadLogits(const float* logits, int64_t left) {
  return left >= kLanes ? Load(logits) : Select(First(left), LoadFirst(logits, left), Splat(-kInfinity));
}

LogitSummary Summarise(const float* logits, int64_t n) {
  F highest = Splat(-kInfinity);
  int64_t n_valid = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const F x = LoadLogits(logits + i, n - i);
    const Mask valid = Valid(x);
    n_valid += __builtin_popcount(Bits(valid));
    highest = Max(highest, Select(valid, x, Splat(-kInfinity)));
  }
  const int64_t padding = (kLanes - n % kLanes) % kLanes;
  LogitSummary summary{ReduceMax(highest), -1, n - (n_valid - padding)};
  if (summary.max == -kInfinity) return summary;
  const F max = Splat(summary.max);
  for (int64_t i = 0; i < n; i += kLanes) {
    const F x = LoadLogits(logits + i, n - i);
    const uint32_t at_max = Bits(Both(GreaterEqual(x, max), Valid(x)));
    if (at_max != 0) {
      summary.argmax = static_cast<int32_t>(i + __builtin_ctz(at_max));
      break;
    }
  }
  return summary;
}

SPILLWAY_SIMD F Weight(F x, F max, F inverse_temperature) {
  return Select(Valid(x), Exp(Mul(Sub(x, max), inverse_temperature)), Zero());
}

double SumExp(const float* logits, int64_t n, float max_logit, float inverse_temperature) {
  const F max = Splat(max_logit);
  const F inverse = Splat(inverse_temperature);
  // Short f32 sums, added up in double.
  constexpr int64_t kRun = 16 * kLanes;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kRun) {
    const int64_t end = begin + kRun < n ? begin + kRun : n;
    F part = Zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      part = Add(part, Weight(LoadLogits(logits + i, end - i), max, inverse));
    }
    sum += static_cast<double>(ReduceAdd(part));
  }
  return sum;
}

void ExpWeights(const float* logits, int64_t n, float max_logit, float inverse_temperature, float* weights) {
  const F max = Splat(max_logit);
  const F inverse = Splat(inverse_temperature);
  for (int64_t i = 0; i < n; i += kLanes) {
    const F weight = Weight(LoadLogits(logits + i, n - i), max, inverse);
    if (n - i >= kLanes) {
      Store(weights + i, weight);
    } else {
      StoreFirst(weights + i, weight, n - i);
    }
  }
}

int64_t Collect(const float* logits, int64_t n, float threshold, float* values, int32_t* tokens) {
  const F least = Splat(threshold);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const F x = LoadLogits(logits + i, n - i);
    const Mask chosen = Both(GreaterEqual(x, least), Valid(x));
    if (Bits(chosen) != 0)
      count += Compress(x, chosen, static_cast<int32_t>(i), values + count, tokens + count);
  }
  return count;
}

int64_t CountAbove(const float* logits, int64_t n, float value) {
  const F bound = Splat(value);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const F x = LoadLogits(logits + i, n - i);
    count += __builtin_popcount(Bits(Both(Less(bound, x), Valid(x))));
  }
  return count;
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_SAMPLING_H_
