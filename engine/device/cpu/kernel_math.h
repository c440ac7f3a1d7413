// Exponential and activations over any simd_*.h.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_MATH_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_MATH_H_

namespace spillway::device {
namespace {

constexpr float kInfinity = __builtin_inff();

// e^x to about 1 ulp; 0 below -87.33 (where f32 turns denormal), at most e^88; NaN stays NaN. The polynomial
// is that of Moshier's Cephes (expf).
SPILLWAY_SIMD F Exp(F x) {
  const F lowest = Splat(-87.33F);
  // In this order of operands min and max hand NaN on.
  const F bounded = Min(Splat(88.0F), Max(lowest, x));
  const F n = Round(Mul(bounded, Splat(1.44269504F)));
  F r = Fma(n, Splat(-0.693359375F), bounded);
  r = Fma(n, Splat(2.12194440e-4F), r);
  F p = Splat(1.9875691500e-4F);
  p = Fma(p, r, Splat(1.3981999507e-3F));
  p = Fma(p, r, Splat(8.3334519073e-3F));
  p = Fma(p, r, Splat(4.1665795894e-2F));
  p = Fma(p, r, Splat(1.6666665459e-1F));
  p = Fma(p, r, Splat(5.0000001201e-1F));
  p = Add(Fma(p, Mul(r, r), r), Splat(1.0F));
  return Select(Less(x, lowest), Zero(), TimesPowerOfTwo(p, n));
}

// x * sigmoid(s * x)
SPILLWAY_SIMD F Swish(F x, F scaled) { return Div(x, Add(Splat(1.0F), Exp(Sub(Zero(), scaled)))); }

template <Activation kActivation>
SPILLWAY_SIMD F Activate(F x) {
  if constexpr (kActivation == Activation::kRelu) {
    return Max(Zero(), x);
  } else if constexpr (kActivation == Activation::kSilu) {
    return Swish(x, x);
  } else if constexpr (kActivation == Activation::kGelu) {
    // The tanh form; (1 + tanh(u)) / 2 = sigmoid(2u) with u = sqrt(2/pi) * (x + 0.044715 x^3).
    const F cubic = Fma(Mul(Splat(0.044715F), Mul(x, x)), x, x);
    return Swish(x, Mul(Splat(2 * 0.7978845608F), cubic));
  } else {
    return x;
  }
}

SPILLWAY_SIMD F ActivateAny(Activation activation, F x) {
  switch (activation) {
    case Activation::kRelu:
      return Activate<Activation::kRelu>(x);
    case Activation::kSilu:
      return Activate<Activation::kSilu>(x);
    case Activation::kGelu:
      return Activate<Activation::kGelu>(x);
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_MATH_H_
