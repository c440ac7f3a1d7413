// Cosine and sine of the angles of rotary position embeddings, the same on every device.
#ifndef SPILLWAY_ENGINE_DEVICE_ARITHMETIC_ROTATION_H_
#define SPILLWAY_ENGINE_DEVICE_ARITHMETIC_ROTATION_H_

#include <cstdint>

#include "engine/device/arithmetic/portable.h"

namespace spillway::device {

struct Rotation {
  float cosine;
  float sine;
};

// Of position * inverse_frequency. The angle is rounded to f32, as the models' own code does; from there on
// it is exact to f32: reduction by multiples of pi/2 in double, then the polynomials of Moshier's Cephes
// (sin, cos). Without branches, so that a loop of it vectorises.
SPILLWAY_PORTABLE Rotation RotationAt(float position, float inverse_frequency) {
  const double round =
      6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, found in the low bits
  const double angle = static_cast<double>(position * inverse_frequency);
  const double shifted = angle * 0.63661977236758134308 + round;
  const double n = shifted - round;
#ifdef __CUDA_ARCH__
  const int64_t quadrant = __double_as_longlong(shifted);
#else
  const int64_t quadrant = __builtin_bit_cast(int64_t, shifted);
#endif
  const double x = (angle - n * 1.57079632673412561417e+00) - n * 6.07710050650619224932e-11;
  const double z = x * x;
  const double sin_x = x + x * z *
                               (-1.66666666666666307295e-1 +
                                z * (8.33333333332211858878e-3 +
                                     z * (-1.98412698295895385996e-4 +
                                          z * (2.75573136213857245213e-6 + z * -2.50507477628578072866e-8))));
  const double cos_x = 1.0 - 0.5 * z +
                       z * z *
                           (4.16666666666665929218e-2 +
                            z * (-1.38888888888730564116e-3 +
                                 z * (2.48015872888517045348e-5 +
                                      z * (-2.75573141792967388112e-7 + z * 2.08757008419747316778e-9))));
  const bool swapped = (quadrant & 1) != 0;
  const double s_abs = swapped ? cos_x : sin_x;
  const double c_abs = swapped ? sin_x : cos_x;
  return {static_cast<float>(((quadrant + 1) & 2) != 0 ? -c_abs : c_abs),
          static_cast<float>((quadrant & 2) != 0 ? -s_abs : s_abs)};
}

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_ARITHMETIC_ROTATION_H_
