#include "engine/model/random_weights.h"

#include <array>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "engine/device/narrowing.h"

namespace spillway::model {
namespace {

// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
// 2014): Mix(key + i * kGolden) is the i-th number of the generator that begins at `key`.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint64_t KeyOf(uint64_t seed, absl::string_view name) {
  uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3;
  return Mix(Mix(seed + kGolden) ^ hash);
}

// Sums of four bytes: 0..1020, mean 510, variance 4 * (256^2 - 1) / 12.
constexpr int kSums = 1021;
constexpr double kSumsMean = 510;
constexpr double kSumsVariance = 21845;

std::array<float, kSums> TableOf(double center, double spread) {
  std::array<float, kSums> table{};
  for (int i = 0; i < kSums; ++i) {
    table[static_cast<size_t>(i)] =
        static_cast<float>(center + (i - kSumsMean) / std::sqrt(kSumsVariance) * spread);
  }
  return table;
}

// out[i] = table[sum of the four bytes that belong to element first + i]. Two elements share one number.
template <typename Element>
void Draw(uint64_t key, int64_t first, int64_t count, const Element* table, Element* out) {
  const auto sum = [](uint32_t bits) {
    const uint32_t pairs = (bits & 0x00ff00ff) + ((bits >> 8) & 0x00ff00ff);
    return (pairs & 0xffff) + (pairs >> 16);
  };
  const auto number = [key](int64_t pair) { return Mix(key + static_cast<uint64_t>(pair) * kGolden); };
  int64_t i = 0;
  if (first % 2 != 0 && count > 0) out[i++] = table[sum(static_cast<uint32_t>(number(first / 2) >> 32))];
  for (; i + 1 < count; i += 2) {
    const uint64_t bits = number((first + i) / 2);
    out[i] = table[sum(static_cast<uint32_t>(bits))];
    out[i + 1] = table[sum(static_cast<uint32_t>(bits >> 32))];
  }
  if (i < count) out[i] = table[sum(static_cast<uint32_t>(number((first + i) / 2)))];
}

// Q4_K blocks [first, first + count) of a tensor whose values have mean 0 and this deviation. An element is
// d * scale * q - dmin * min, with every scale and min 1 and q one of 0..15.
void DrawQ4K(uint64_t key, int64_t first, int64_t count, double spread, uint8_t* out) {
  constexpr size_t kBlockBytes = 144;
  constexpr int64_t kNumbers = 16;  // of 8 bytes each: 256 elements
  constexpr double kMeanQ = 7.5;
  const double deviation_q = std::sqrt((16.0 * 16 - 1) / 12);
  const float d = static_cast<float>(spread / deviation_q);
  uint8_t head[16] = {};
  device::NarrowFromF32(device::DType::kF16, &d, 1, head);
  float rounded = 0;
  device::DecodeToF32(device::Encoding::kF16, head, 1, &rounded);
  const float dmin = static_cast<float>(kMeanQ) * rounded;
  device::NarrowFromF32(device::DType::kF16, &dmin, 1, head + 2);
  std::memset(head + 4, 1, 8);      // scales 0..3, mins 0..3
  std::memset(head + 12, 0x11, 4);  // low nibbles of scales and mins 4..7
  for (int64_t block = first; block < first + count; ++block, out += kBlockBytes) {
    std::memcpy(out, head, sizeof(head));
    for (int64_t i = 0; i < kNumbers; ++i) {
      const uint64_t bits = Mix(key + static_cast<uint64_t>(block * kNumbers + i) * kGolden);
      std::memcpy(out + sizeof(head) + i * 8, &bits, 8);
    }
  }
}

struct Shape {
  double center;
  double spread;
};

Shape ShapeOf(const ImpliedTensor& tensor, const ModelConfig& config) {
  const double inputs = static_cast<double>(tensor.shape.back());
  switch (tensor.role) {
    case TensorRole::kEmbedding:
    case TensorRole::kMatrix:
    case TensorRole::kHead:
      return {0, 1 / std::sqrt(inputs)};
    case TensorRole::kResidual:
      return {0, 1 / std::sqrt(inputs * 2 * config.n_layers)};
    case TensorRole::kGain:
      return {1, 0.1};
    case TensorRole::kBias:
      return {0, 0.1};
  }
  SPILLWAY_CHECK(false);
}

}  // namespace

RandomTensors::RandomTensors(const ModelConfig& config, uint64_t seed, std::string name,
                             device::Encoding matrices)
    : name_(std::move(name)), config_(config), seed_(seed) {
  SPILLWAY_CHECK(matrices == device::Encoding::kBF16 || matrices == device::Encoding::kQ4_K);
  for (const ImpliedTensor& tensor : ImpliedTensors(config)) {
    Entry entry;
    entry.view.name = tensor.name;
    const bool whole_blocks = tensor.shape.back() % device::InfoOf(matrices).block_elements == 0;
    entry.view.encoding = tensor.shape.size() != 2 ? device::Encoding::kF32
                          : whole_blocks           ? matrices
                                                   : device::Encoding::kBF16;
    entry.view.shape = tensor.shape;
    entry.view.size_bytes = device::EncodedBytes(entry.view.encoding, tensor.elements());
    entry.center = ShapeOf(tensor, config).center;
    entry.spread = ShapeOf(tensor, config).spread;
    entry.key = KeyOf(seed, tensor.name);
    index_.emplace(tensor.name, entries_.size());
    entries_.push_back(std::move(entry));
  }
}

const device::TensorView* RandomTensors::FindTensor(absl::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second].view;
}

device::TensorView RandomTensors::Rows(const device::TensorView& tensor, int64_t first, int64_t count,
                                       std::vector<uint8_t>* room) const {
  const auto found = index_.find(tensor.name);
  SPILLWAY_CHECK(found != index_.end());
  const Entry& entry = entries_[found->second];
  SPILLWAY_CHECK(first >= 0 && count >= 0 && count <= entry.view.shape[0] - first);
  const int64_t columns = entry.view.elements() / entry.view.shape[0];
  device::TensorView rows = entry.view;
  rows.shape[0] = count;
  rows.size_bytes = device::EncodedBytes(rows.encoding, count * columns);
  room->resize(static_cast<size_t>(rows.size_bytes));
  rows.data = room->data();
  if (rows.encoding == device::Encoding::kQ4_K) {
    const int64_t row_blocks = columns / device::InfoOf(rows.encoding).block_elements;
    DrawQ4K(entry.key, first * row_blocks, count * row_blocks, entry.spread, room->data());
    return rows;
  }
  const std::array<float, kSums> table = TableOf(entry.center, entry.spread);
  if (rows.encoding == device::Encoding::kF32) {
    Draw(entry.key, first * columns, count * columns, table.data(), reinterpret_cast<float*>(room->data()));
    return rows;
  }
  std::array<uint16_t, kSums> narrow{};
  device::NarrowFromF32(device::DType::kBF16, table.data(), kSums, reinterpret_cast<uint8_t*>(narrow.data()));
  Draw(entry.key, first * columns, count * columns, narrow.data(), reinterpret_cast<uint16_t*>(room->data()));
  return rows;
}

absl::StatusOr<ModelFingerprint> RandomTensors::Fingerprint() const {
  std::string text = absl::StrFormat(
      "spillway random weights 1\nseed %u\nheads %d %d %d\nnorm %d %.9g\nactivation %d\nposition %d %d\n"
      "rope %.17g %d %d %.17g %s\n",
      seed_, config_.n_heads, config_.n_kv_heads, config_.d_head, static_cast<int>(config_.norm),
      config_.norm_epsilon, static_cast<int>(config_.activation), static_cast<int>(config_.position),
      config_.position_offset, config_.rope.theta, config_.rope.dims, static_cast<int>(config_.rope.style),
      config_.rope.linear_factor, absl::StrJoin(config_.rope.freq_factors, ","));
  for (const Entry& entry : entries_) {
    absl::StrAppend(&text, entry.view.name, " ", absl::StrJoin(entry.view.shape, "x"), " ",
                    absl::StrFormat("%.17g %.17g", entry.center, entry.spread),
                    entry.view.encoding == device::Encoding::kQ4_K ? " Q4_K\n" : "\n");
  }
  return FingerprintOfText(text);
}

}  // namespace spillway::model
