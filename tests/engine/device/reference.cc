#include "tests/engine/device/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

namespace spillway::device::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return x;
}

Values Product(const Values& in, const Values& weight, const Values& bias, int64_t rows, int64_t n, int64_t k,
               Activation activation) {
  Values out(static_cast<size_t>(rows * n));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0 : bias[j];
      for (int64_t i = 0; i < k; ++i) sum += in[r * k + i] * weight[j * k + i];
      out[r * n + j] = Activate(activation, sum);
    }
  }
  return out;
}

Values Norm(NormKind kind, const Values& row, const Values& gain, const Values& bias, double epsilon) {
  const double d = static_cast<double>(row.size());
  const double mean = kind == NormKind::kLayer ? std::accumulate(row.begin(), row.end(), 0.0) / d : 0;
  double squares = 0;
  for (double x : row) squares += (x - mean) * (x - mean);
  const double scale = 1 / std::sqrt(squares / d + epsilon);
  Values out(row.size());
  for (size_t i = 0; i < row.size(); ++i)
    out[i] = (row[i] - mean) * scale * gain[i] + (bias.empty() ? 0 : bias[i]);
  return out;
}

Values Rope(RopeStyle style, const Values& head, const std::vector<float>& inverse_frequency,
            int64_t position) {
  Values out = head;
  if (style == RopeStyle::kNone) return out;
  const size_t pairs = inverse_frequency.size();
  for (size_t i = 0; i < pairs; ++i) {
    // In f32, as ops.h leaves it to the models' own code.
    const double angle = static_cast<double>(static_cast<float>(position) * inverse_frequency[i]);
    const size_t a = style == RopeStyle::kInterleaved ? 2 * i : i;
    const size_t b = style == RopeStyle::kInterleaved ? 2 * i + 1 : i + pairs;
    out[a] = head[a] * std::cos(angle) - head[b] * std::sin(angle);
    out[b] = head[a] * std::sin(angle) + head[b] * std::cos(angle);
  }
  return out;
}

Partial Attend(const Values& query, const std::vector<Values>& keys, const std::vector<Values>& values,
               double scale) {
  Partial out{-kInfinity, 0, Values(query.size(), 0.0)};
  Values scores;
  for (const Values& key : keys) {
    scores.push_back(scale * std::inner_product(query.begin(), query.end(), key.begin(), 0.0));
    out.max = std::max(out.max, scores.back());
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    const double weight = std::exp(scores[i] - out.max);
    out.sum += weight;
    for (size_t e = 0; e < query.size(); ++e) out.acc[e] += weight * values[i][e];
  }
  return out;
}

Values Distribution(const SampleRow& row, const std::vector<float>& original) {
  Values logits(original.begin(), original.end());
  for (double& logit : logits) {
    if (std::isnan(logit) || logit == kInfinity) logit = -kInfinity;
  }
  std::map<int32_t, int32_t> generated;
  for (int32_t i = 0; i < row.n_history; ++i) generated[row.history[i]] += i >= row.n_prompt ? 1 : 0;
  for (const auto& [token, count] : generated) {
    double& logit = logits[token];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    const double presence = static_cast<double>(row.presence_penalty);
    logit -= static_cast<double>(row.frequency_penalty) * count + (count > 0 ? presence : 0);
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    if (row.forbidden != nullptr && ((row.forbidden[i / 32] >> (i % 32)) & 1U) != 0) logits[i] = -kInfinity;
  }
  for (int32_t i = 0; i < row.n_forbidden_ids; ++i) logits[row.forbidden_ids[i]] = -kInfinity;

  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  Values weights(logits.size(), 0.0);
  if (logits[order[0]] == -kInfinity) return weights;
  if (row.temperature == 0) {
    weights[order[0]] = 1;
    return weights;
  }
  const size_t keep = row.top_k > 0 ? std::min(order.size(), static_cast<size_t>(row.top_k)) : order.size();
  double mass = 0;
  for (size_t i = 0; i < keep; ++i) {
    const double weight = std::exp((logits[order[i]] - logits[order[0]]) / row.temperature);
    if (weight < row.min_p) break;
    weights[order[i]] = weight;
    mass += weight;
  }
  double before = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && row.top_p < 1 && before >= row.top_p * mass) weights[order[i]] = 0;
    before += weights[order[i]];
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= total;
  return weights;
}

}  // namespace spillway::device::reference
