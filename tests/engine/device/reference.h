// The operations of engine/device/ops.h in plain double loops, from their formulas and nothing else.
#ifndef SPILLWAY_TESTS_ENGINE_DEVICE_REFERENCE_H_
#define SPILLWAY_TESTS_ENGINE_DEVICE_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "engine/device/ops.h"

namespace spillway::device::reference {

using Values = std::vector<double>;

double Activate(Activation activation, double x);

// [rows, n] = activation(in [rows, k] * weight [n, k]^T + bias [n]); an empty bias is none.
Values Product(const Values& in, const Values& weight, const Values& bias, int64_t rows, int64_t n, int64_t k,
               Activation activation);

// One row; an empty bias is none.
Values Norm(NormKind kind, const Values& row, const Values& gain, const Values& bias, double epsilon);

// One head, rotated for `position`.
Values Rope(RopeStyle style, const Values& head, const std::vector<float>& inverse_frequency,
            int64_t position);

// Unfinished softmax attention of one query over the given keys and values, [keys][d_head].
struct Partial {
  double max;
  double sum;
  Values acc;
};
Partial Attend(const Values& query, const std::vector<Values>& keys, const std::vector<Values>& values,
               double scale);

// The distribution that a row is drawn from after all filters, by id; zeros for what cannot be drawn.
Values Distribution(const SampleRow& row, const std::vector<float>& logits);

}  // namespace spillway::device::reference

#endif  // SPILLWAY_TESTS_ENGINE_DEVICE_REFERENCE_H_
