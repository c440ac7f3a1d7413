// Operations on one row, over any simd_*.h and element_*.h.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_ELEMENTWISE_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_ELEMENTWISE_H_

#include "engine/device/arithmetic/rotation.h"

namespace spillway::device {
namespace {

// Calls full(i) for every whole vector of [0, n) and rest(i, left) for what is left.
template <typename Full, typename Rest>
SPILLWAY_SIMD void ForLanes(int64_t n, const Full& full, const Rest& rest) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) full(i);
  if (i < n) rest(i, n - i);
}

void EmbedRow(const void* table_row, float scale, const void* position_row, int64_t d, float* hidden) {
  const T* row = static_cast<const T*>(table_row);
  const T* position = static_cast<const T*>(position_row);
  const F s = Splat(scale);
  if (position != nullptr) {
    ForLanes(
        d, [&](int64_t i) { Store(hidden + i, Fma(LoadT(row + i), s, LoadT(position + i))); },
        [&](int64_t i, int64_t n) {
          StoreFirst(hidden + i, Fma(LoadFirstT(row + i, n), s, LoadFirstT(position + i, n)), n);
        });
    return;
  }
  ForLanes(
      d, [&](int64_t i) { Store(hidden + i, Mul(LoadT(row + i), s)); },
      [&](int64_t i, int64_t n) { StoreFirst(hidden + i, Mul(LoadFirstT(row + i, n), s), n); });
}

void AddNormRow(const NormRow& row) {
  float* hidden = row.hidden;
  const T* addend = static_cast<const T*>(row.addend);
  if (addend != nullptr) {
    ForLanes(
        row.d, [&](int64_t i) { Store(hidden + i, Add(Load(hidden + i), LoadT(addend + i))); },
        [&](int64_t i, int64_t n) {
          StoreFirst(hidden + i, Add(LoadFirst(hidden + i, n), LoadFirstT(addend + i, n)), n);
        });
  }
  const float inverse_d = 1.0F / static_cast<float>(row.d);
  float mean = 0;
  if (row.kind == NormKind::kLayer) {
    F sum = Zero();
    ForLanes(
        row.d, [&](int64_t i) { sum = Add(sum, Load(hidden + i)); },
        [&](int64_t i, int64_t n) { sum = Add(sum, LoadFirst(hidden + i, n)); });
    mean = ReduceAdd(sum) * inverse_d;
  }
  const F centre = Splat(mean);
  F squares = Zero();
  ForLanes(
      row.d,
      [&](int64_t i) {
        const F x = Sub(Load(hidden + i), centre);
        squares = Fma(x, x, squares);
      },
      [&](int64_t i, int64_t n) {
        const F x = Select(First(n), Sub(LoadFirst(hidden + i, n), centre), Zero());
        squares = Fma(x, x, squares);
      });
  const F scale = Splat(1.0F / __builtin_sqrtf(ReduceAdd(squares) * inverse_d + row.epsilon));

  T* out = static_cast<T*>(row.out);
  const auto normed = [&](F x, F gain) { return Mul(Mul(Sub(x, centre), scale), gain); };
  if (row.bias == nullptr) {
    ForLanes(
        row.d, [&](int64_t i) { StoreT(out + i, normed(Load(hidden + i), Load(row.gain + i))); },
        [&](int64_t i, int64_t n) {
          StoreFirstT(out + i, normed(LoadFirst(hidden + i, n), LoadFirst(row.gain + i, n)), n);
        });
  } else {
    ForLanes(
        row.d,
        [&](int64_t i) {
          StoreT(out + i, Add(normed(Load(hidden + i), Load(row.gain + i)), Load(row.bias + i)));
        },
        [&](int64_t i, int64_t n) {
          const F x = normed(LoadFirst(hidden + i, n), LoadFirst(row.gain + i, n));
          StoreFirstT(out + i, Add(x, LoadFirst(row.bias + i, n)), n);
        });
  }
}

// Cosine and sine of position * inverse_frequency[i] for each pair i. The compiler vectorises the first loop.
void FillRopeTable(RopeStyle style, int64_t rope_dims, const float* inverse_frequency, int32_t position,
                   float* cosine, float* sine) {
  const int64_t pairs = rope_dims / 2;
  const float p = static_cast<float>(position);
  const auto evaluate = [&](int64_t i, float* c, float* s) {
    const Rotation rotation = RotationAt(p, inverse_frequency[i]);
    *c = rotation.cosine;
    *s = rotation.sine;
  };
  if (style == RopeStyle::kHalf) {
    for (int64_t i = 0; i < pairs; ++i) evaluate(i, cosine + i, sine + i);
    return;
  }
  // Spread in place from the end, so that the first loop stays a plain one.
  for (int64_t i = 0; i < pairs; ++i) evaluate(i, cosine + i, sine + i);
  for (int64_t i = pairs - 1; i >= 0; --i) {
    const float c = cosine[i];
    const float s = sine[i];
    cosine[2 * i] = cosine[2 * i + 1] = c;
    sine[2 * i] = -s;
    sine[2 * i + 1] = s;
  }
}

SPILLWAY_SIMD void CopyElements(const T* in, T* out, int64_t n) {
  if (in != out && n > 0) __builtin_memmove(out, in, static_cast<uint64_t>(n) * sizeof(T));
}

void RopeHead(const RopeTable& table, int64_t d_head, const void* in_head, void* out_head) {
  const T* in = static_cast<const T*>(in_head);
  T* out = static_cast<T*>(out_head);
  if (table.style == RopeStyle::kInterleaved) {
    const auto rotate = [](F x, F c, F s) { return Fma(x, c, Mul(SwapNeighbours(x), s)); };
    ForLanes(
        table.rope_dims,
        [&](int64_t i) {
          StoreT(out + i, rotate(LoadT(in + i), Load(table.cosine + i), Load(table.sine + i)));
        },
        [&](int64_t i, int64_t n) {
          const F c = LoadFirst(table.cosine + i, n);
          const F s = LoadFirst(table.sine + i, n);
          StoreFirstT(out + i, rotate(LoadFirstT(in + i, n), c, s), n);
        });
  } else {
    const int64_t half = table.rope_dims / 2;
    ForLanes(
        half,
        [&](int64_t i) {
          const F c = Load(table.cosine + i);
          const F s = Load(table.sine + i);
          const F x = LoadT(in + i);
          const F y = LoadT(in + half + i);
          StoreT(out + i, Sub(Mul(x, c), Mul(y, s)));
          StoreT(out + half + i, Fma(x, s, Mul(y, c)));
        },
        [&](int64_t i, int64_t n) {
          const F c = LoadFirst(table.cosine + i, n);
          const F s = LoadFirst(table.sine + i, n);
          const F x = LoadFirstT(in + i, n);
          const F y = LoadFirstT(in + half + i, n);
          StoreFirstT(out + i, Sub(Mul(x, c), Mul(y, s)), n);
          StoreFirstT(out + half + i, Fma(x, s, Mul(y, c)), n);
        });
  }
  CopyElements(in + table.rope_dims, out + table.rope_dims, d_head - table.rope_dims);
}

template <Activation kActivation>
void GateRowAs(int64_t d_ff, const T* gate, const T* up, T* out) {
  ForLanes(
      d_ff, [&](int64_t i) { StoreT(out + i, Mul(Activate<kActivation>(LoadT(gate + i)), LoadT(up + i))); },
      [&](int64_t i, int64_t n) {
        const F g = Activate<kActivation>(LoadFirstT(gate + i, n));
        StoreFirstT(out + i, Mul(g, LoadFirstT(up + i, n)), n);
      });
}

void GateRow(Activation activation, int64_t d_ff, const void* gate_up, void* out_row) {
  const T* gate = static_cast<const T*>(gate_up);
  T* out = static_cast<T*>(out_row);
  switch (activation) {
    case Activation::kNone:
      return GateRowAs<Activation::kNone>(d_ff, gate, gate + d_ff, out);
    case Activation::kRelu:
      return GateRowAs<Activation::kRelu>(d_ff, gate, gate + d_ff, out);
    case Activation::kSilu:
      return GateRowAs<Activation::kSilu>(d_ff, gate, gate + d_ff, out);
    case Activation::kGelu:
      return GateRowAs<Activation::kGelu>(d_ff, gate, gate + d_ff, out);
  }
}

void ScaleToT(const float* values, float scale, int64_t n_values, void* out_values) {
  T* out = static_cast<T*>(out_values);
  const F s = Splat(scale);
  ForLanes(
      n_values, [&](int64_t i) { StoreT(out + i, Mul(Load(values + i), s)); },
      [&](int64_t i, int64_t n) { StoreFirstT(out + i, Mul(LoadFirst(values + i, n), s), n); });
}

void Blend(float* acc, float a, const float* other, float b, int64_t n_values) {
  const F fa = Splat(a);
  const F fb = Splat(b);
  ForLanes(
      n_values, [&](int64_t i) { Store(acc + i, Fma(Load(other + i), fb, Mul(Load(acc + i), fa))); },
      [&](int64_t i, int64_t n) {
        StoreFirst(acc + i, Fma(LoadFirst(other + i, n), fb, Mul(LoadFirst(acc + i, n), fa)), n);
      });
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_ELEMENTWISE_H_
