// Embed, AddNorm, RopeAppend and GatedActivation.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/engine/device/device_suite.h"
#include "tests/engine/device/reference.h"

namespace spillway::device {
namespace {

using reference::Values;

Values RowOf(const Values& matrix, int64_t row, int64_t width) {
  return Values(matrix.begin() + row * width, matrix.begin() + (row + 1) * width);
}

void Append(const Values& row, Values* all) { all->insert(all->end(), row.begin(), row.end()); }

TEST_P(DeviceSuite, EmbedTakesScaledRowsOfTheTable) {
  for (int64_t d : {1, 7, 64, 100}) {
    const Values table = Random(11 * d);
    const std::vector<int32_t> ids = {10, 0, 3, 3};
    EmbedArgs args;
    args.rows = 4;
    args.d = static_cast<int32_t>(d);
    args.table = UploadT(table);
    args.ids = UploadArray(ids);
    args.hidden = Allocate(4 * d * 4);
    args.scale = 2.5F;
    device_->Embed(stream_, args);
    Values want;
    for (int32_t id : ids) {
      for (double x : RowOf(table, id, d)) want.push_back(2.5 * x);
    }
    ExpectClose(DownloadF32(args.hidden, 4 * d), want, {0, 1e-6}, "embedding");
  }
}

TEST_P(DeviceSuite, EmbedAddsTheRowOfTheRowsPosition) {
  for (int64_t d : {1, 7, 64, 100}) {
    const Values table = Random(11 * d);
    const Values positions = Random(300 * d);
    const std::vector<int32_t> ids = {10, 0, 3, 3};
    const std::vector<int32_t> at = {0, 299, 17, 16};
    std::vector<AppendRow> append;
    for (int32_t position : at)
      append.push_back({.k_slot = 1, .v_slot = 2, .x_slot = -1, .offset_tokens = 3, .position = position});
    EmbedArgs args;
    args.rows = 4;
    args.d = static_cast<int32_t>(d);
    args.table = UploadT(table);
    args.ids = UploadArray(ids);
    args.positions = UploadT(positions);
    args.append = UploadArray(append);
    args.hidden = Allocate(4 * d * 4);
    args.scale = 2.5F;
    device_->Embed(stream_, args);
    Values want;
    for (size_t r = 0; r < ids.size(); ++r) {
      for (int64_t i = 0; i < d; ++i) want.push_back(2.5 * table[ids[r] * d + i] + positions[at[r] * d + i]);
    }
    ExpectClose(DownloadF32(args.hidden, 4 * d), want, {1e-6, 1e-6}, "embedding with positions");
  }
}

// Rows of the table that this device makes of an encoding, packed or not, are those of its values rounded to
// T.
void CheckTable(DeviceSuite& suite, Encoding encoding, int64_t k, bool has_positions) {
  constexpr int64_t kTableRows = 11;
  const PackedParts parts = suite.MakePackedParts({{encoding, kTableRows}}, k);
  const Values positions = suite.Random(300 * k);
  const std::vector<int32_t> ids = {10, 0, 3, 3, 7};
  std::vector<AppendRow> append;
  for (const int32_t position : {0, 299, 17, 16, 1}) append.push_back({1, 2, -1, 3, position});
  EmbedArgs args;
  args.rows = static_cast<int32_t>(ids.size());
  args.d = static_cast<int32_t>(k);
  args.ids = suite.UploadArray(ids);
  if (has_positions) {
    args.positions = suite.UploadT(positions);
    args.append = suite.UploadArray(append);
  }
  args.hidden = suite.Allocate(args.rows * k * 4);
  args.scale = 0.5F;
  Values want;
  for (size_t r = 0; r < ids.size(); ++r) {
    for (int64_t i = 0; i < k; ++i) {
      const double position = has_positions ? positions[append[r].position * k + i] : 0;
      want.push_back(0.5 * RoundTo(suite.type(), parts.values[ids[r] * k + i]) + position);
    }
  }
  for (const WeightMode mode : {WeightMode::kAuto, WeightMode::kPacked, WeightMode::kExpanded}) {
    const auto plan = suite.device_->PlanTable(parts.views[0], mode);
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_TRUE(plan->is_table);
    EXPECT_EQ(plan->size_bytes, EncodedBytes(plan->encoding, kTableRows * k));
    if (mode == WeightMode::kExpanded) {
      EXPECT_EQ(plan->size_bytes, kTableRows * k * SizeOf(suite.type()));
    }
    // In two pieces, as several threads of a loader make it.
    std::vector<uint8_t> packed(static_cast<size_t>(plan->size_bytes));
    const int64_t row_bytes = plan->size_bytes / kTableRows;
    for (const auto& [first, n] : {std::pair<int64_t, int64_t>{0, 4}, {4, kTableRows - 4}}) {
      TensorView rows = parts.views[0];
      rows.shape[0] = n;
      rows.data += first * (rows.size_bytes / kTableRows);
      PackedMatrix piece = *plan;
      piece.n = n;
      piece.size_bytes = n * row_bytes;
      ASSERT_TRUE(suite.device_->PackMatrix({rows}, piece, packed.data() + first * row_bytes).ok());
    }
    args.table = suite.UploadArray(packed);
    args.encoding = plan->encoding;
    suite.device_->Embed(suite.stream_, args);
    const std::string what =
        absl::StrCat(std::string(InfoOf(encoding).name), " of ", k, " in mode ", static_cast<int>(mode));
    const Values got = suite.DownloadF32(args.hidden, args.rows * k);
    // A GPU may fuse the product and the sum that decode an element: a few round to the other neighbour.
    ExpectClose(got, want, {1e-6, 2.01 * UnitOf(suite.type()) + 1e-6}, what);
    size_t n_others = 0;
    for (size_t i = 0; i < got.size(); ++i) n_others += std::abs(got[i] - want[i]) > 1e-6 ? 1 : 0;
    EXPECT_LE(n_others, got.size() / 100) << what;
  }
}

TEST_P(DeviceSuite, EmbedTakesRowsOfATableAsItIsEncoded) {
  for (const Encoding encoding :
       {Encoding::kF32, Encoding::kF16, Encoding::kBF16, Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1,
        Encoding::kQ5_0, Encoding::kQ5_1, Encoding::kQ4_K, Encoding::kQ5_K, Encoding::kQ6_K}) {
    CheckTable(*this, encoding, 256, /*has_positions=*/true);
    // More than a block of threads decodes, or rows that are no whole spans of a product.
    const int64_t block = InfoOf(encoding).block_elements;
    CheckTable(*this, encoding, block == 256 ? 9 * 256 : 96, /*has_positions=*/false);
  }
  CheckTable(*this, Encoding::kQ4_0, 69 * 32, /*has_positions=*/true);
}

TEST_P(DeviceSuite, AddNormAddsAndNormalises) {
  for (const auto& [rows, d] : {std::pair{1, 1}, {1, 64}, {3, 33}, {129, 576}, {2, 1000}}) {
    for (NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      for (bool add : {false, true}) {
        const Values hidden = Random(rows * d, 3);
        const Values addend = Random(rows * d);
        const Values gain = Random(d);
        const Values bias = kind == NormKind::kLayer ? Random(d) : Values();
        AddNormArgs args;
        args.kind = kind;
        args.rows = rows;
        args.d = d;
        args.epsilon = 1e-3F;
        args.hidden = UploadF32(hidden);
        if (add) args.addend = UploadT(addend);
        args.gain = UploadF32(gain);
        if (!bias.empty()) args.bias = UploadF32(bias);
        args.out = Allocate(rows * d * 4);
        device_->AddNorm(stream_, args);

        Values sum = hidden;
        for (size_t i = 0; add && i < sum.size(); ++i) sum[i] += addend[i];
        Values want;
        for (int64_t r = 0; r < rows; ++r) {
          Append(reference::Norm(kind, RowOf(sum, r, d), gain, bias, static_cast<double>(args.epsilon)),
                 &want);
        }
        const std::string what = absl::StrCat("norm of ", rows, "x", d);
        ExpectClose(DownloadF32(args.hidden, rows * d), sum, {1e-6, 1e-6}, what + ", hidden");
        // A layer norm's centred value may be far smaller than what it is computed from.
        ExpectClose(DownloadT(args.out, rows * d), want, {4e-5, 1.01 * UnitOf(type()) + 1e-5}, what);
      }
    }
  }
}

// Each array in turn begins an element later than memory does.
TEST_P(DeviceSuite, RowsMayLieAnywhere) {
  const int64_t d = 64;
  const Values hidden = Random(d), addend = Random(d), gain = Random(d), bias = Random(d),
               both = Random(2 * d);
  Values sum = hidden, gated;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += addend[i];
  for (size_t i = 0; i < sum.size(); ++i) gated.push_back(std::max(both[i], 0.0) * both[d + i]);
  const Values want = reference::Norm(NormKind::kLayer, sum, gain, bias, 1e-5);
  for (int shifted = 0; shifted < 5; ++shifted) {
    const auto upload = [&](int which, DType type, Values values) {
      values.insert(values.begin(), 0.0);
      if (shifted == which) return UploadAs(type, values) + SizeOf(type);
      values.erase(values.begin());
      return UploadAs(type, values);
    };
    const DevicePtr out = Allocate((d + 1) * 4) + (shifted == 4 ? SizeOf(type()) : 0);
    AddNormArgs norm;
    norm.kind = NormKind::kLayer;
    norm.rows = 1;
    norm.d = static_cast<int32_t>(d);
    norm.hidden = upload(0, DType::kF32, hidden);
    norm.addend = upload(1, type(), addend);
    norm.gain = upload(2, DType::kF32, gain);
    norm.bias = upload(3, DType::kF32, bias);
    norm.out = out;
    device_->AddNorm(stream_, norm);
    const std::string what = absl::StrCat("array ", shifted);
    ExpectClose(DownloadT(out, d), want, {4e-5, 1.01 * UnitOf(type()) + 1e-5}, what + " of a norm");
    GatedActivationArgs gate;
    gate.rows = 1;
    gate.d_ff = static_cast<int32_t>(d);
    gate.activation = Activation::kRelu;
    gate.gate_up = upload(0, type(), both);
    gate.out = out;
    device_->GatedActivation(stream_, gate);
    ExpectClose(DownloadT(out, d), gated, {1e-6, 1.01 * UnitOf(type()) + 1e-5}, what + " of an activation");
  }
}

TEST_P(DeviceSuite, AddNormTakesChosenRows) {
  const int64_t d = 48;
  const Values hidden = Random(5 * d);
  const Values gain = Random(d);
  const std::vector<int32_t> chosen = {4, 1};
  AddNormArgs args;
  args.rows = 2;
  args.d = static_cast<int32_t>(d);
  args.hidden = UploadF32(hidden);
  args.gain = UploadF32(gain);
  args.row_index = UploadArray(chosen);
  args.out = Allocate(2 * d * 4);
  device_->AddNorm(stream_, args);
  Values want;
  for (int32_t r : chosen)
    Append(reference::Norm(NormKind::kRms, RowOf(hidden, r, d), gain, {}, 1e-5), &want);
  ExpectClose(DownloadT(args.out, 2 * d), want, {1e-5, 1.01 * UnitOf(type()) + 1e-5}, "chosen rows");
  ExpectClose(DownloadF32(args.hidden, 5 * d), hidden, {0, 0}, "hidden");
}

TEST_P(DeviceSuite, GatedActivationMultiplies) {
  for (Activation activation : {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu}) {
    for (const auto& [rows, d_ff] : {std::pair{1, 1}, {3, 65}, {129, 100}, {2, 1536}}) {
      Values gate_up = Random(2 * rows * d_ff, 4);
      gate_up[0] = RoundTo(type(), -200);  // where e^-x is far out of range
      GatedActivationArgs args;
      args.rows = rows;
      args.d_ff = d_ff;
      args.activation = activation;
      args.gate_up = UploadT(gate_up);
      args.out = Allocate(rows * d_ff * 4);
      device_->GatedActivation(stream_, args);
      Values want;
      for (int64_t r = 0; r < rows; ++r) {
        const Values row = RowOf(gate_up, r, 2 * d_ff);
        for (int64_t i = 0; i < d_ff; ++i)
          want.push_back(reference::Activate(activation, row[i]) * row[d_ff + i]);
      }
      ExpectClose(DownloadT(args.out, rows * d_ff), want, {1e-6, 1.01 * UnitOf(type()) + 1e-5},
                  absl::StrCat("activation ", static_cast<int>(activation), " of ", rows, "x", d_ff));
    }
  }
}

struct RopeShape {
  int64_t rows;
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t d_head;
  int64_t rope_dims;
  RopeStyle style;
};

void CheckRopeAppend(DeviceSuite& suite, const RopeShape& shape) {
  const std::string what = absl::StrCat("rope style ", static_cast<int>(shape.style), " of ", shape.rope_dims,
                                        " of ", shape.d_head);
  const int64_t block_tokens = 16;
  const int64_t d = 40;
  const int64_t width = (shape.n_heads + 2 * shape.n_kv_heads) * shape.d_head;
  const int64_t plane = shape.n_kv_heads * block_tokens * shape.d_head;
  const int64_t slot_elements = std::max(plane, (block_tokens * d + 1) / 2) + 8;  // X takes two slots
  const int64_t n_slots = 4 * shape.rows;
  const Values qkv = suite.Random(shape.rows * width);
  const Values x = suite.Random(shape.rows * d);
  std::vector<float> inverse_frequency;
  for (int64_t i = 0; i < shape.rope_dims / 2; ++i) {
    inverse_frequency.push_back(
        std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(shape.rope_dims)));
  }
  // Rows land in blocks of their own, in an order of their own; every third stores no X.
  std::vector<AppendRow> append;
  for (int64_t r = 0; r < shape.rows; ++r) {
    const int32_t first_slot = static_cast<int32_t>(4 * (shape.rows - 1 - r));
    const int32_t position = r == 0 ? 0 : r == 1 ? 131071 : static_cast<int32_t>(977 * r + 5);
    append.push_back({first_slot, first_slot + 1, r % 3 == 2 ? -1 : first_slot + 2,
                      static_cast<int32_t>((5 * r + 3) % block_tokens), position});
  }
  const int64_t element_bytes = SizeOf(suite.type());
  const Values empty(static_cast<size_t>(n_slots * slot_elements), -7.0);

  RopeAppendArgs args;
  args.rows = static_cast<int32_t>(shape.rows);
  args.n_heads = static_cast<int32_t>(shape.n_heads);
  args.n_kv_heads = static_cast<int32_t>(shape.n_kv_heads);
  args.d_head = static_cast<int32_t>(shape.d_head);
  args.d = static_cast<int32_t>(d);
  args.block_tokens = static_cast<int32_t>(block_tokens);
  args.style = shape.style;
  args.rope_dims = static_cast<int32_t>(shape.rope_dims);
  args.inverse_frequency = suite.UploadArray(inverse_frequency);
  args.qkv = suite.UploadT(qkv);
  args.x = suite.UploadT(x);
  args.append = suite.UploadArray(append);
  args.arena = {suite.UploadT(empty), slot_elements * element_bytes};
  suite.device_->RopeAppend(suite.stream_, args);

  Values want_qkv = qkv;
  Values want_slots = empty;
  for (int64_t r = 0; r < shape.rows; ++r) {
    const AppendRow& target = append[r];
    const auto head_at = [&](int64_t head) {
      return Values(qkv.begin() + r * width + head * shape.d_head,
                    qkv.begin() + r * width + (head + 1) * shape.d_head);
    };
    const auto rotated = [&](int64_t head) {
      return reference::Rope(shape.style, head_at(head), inverse_frequency, target.position);
    };
    for (int64_t h = 0; h < shape.n_heads; ++h) {
      const Values q = rotated(h);
      std::copy(q.begin(), q.end(), want_qkv.begin() + r * width + h * shape.d_head);
    }
    for (int64_t h = 0; h < shape.n_kv_heads; ++h) {
      const int64_t at = (h * block_tokens + target.offset_tokens) * shape.d_head;
      const Values k = rotated(shape.n_heads + h);
      const Values v = head_at(shape.n_heads + shape.n_kv_heads + h);
      std::copy(k.begin(), k.end(), want_slots.begin() + target.k_slot * slot_elements + at);
      std::copy(v.begin(), v.end(), want_slots.begin() + target.v_slot * slot_elements + at);
    }
    if (target.x_slot >= 0) {
      const Values row = RowOf(x, r, d);
      std::copy(row.begin(), row.end(),
                want_slots.begin() + target.x_slot * slot_elements + target.offset_tokens * d);
    }
  }
  const Tolerance tolerance{4e-7, 1.01 * UnitOf(suite.type()) + 1e-6};
  // k and v stay where they were, unrotated.
  ExpectClose(suite.DownloadT(args.qkv, shape.rows * width), want_qkv, tolerance, what + ", q|k|v");
  ExpectClose(suite.DownloadT(args.arena.base, n_slots * slot_elements), want_slots, tolerance,
              what + ", slots");
}

TEST_P(DeviceSuite, RopeAppendRotatesAndStores) {
  for (RopeStyle style : {RopeStyle::kNone, RopeStyle::kInterleaved, RopeStyle::kHalf}) {
    CheckRopeAppend(*this, {1, 1, 1, 64, 64, style});
    CheckRopeAppend(*this, {9, 9, 3, 64, 64, style});
    CheckRopeAppend(*this, {3, 8, 1, 80, 20, style});
    CheckRopeAppend(*this, {2, 4, 4, 24, 24, style});
    CheckRopeAppend(*this, {5, 2, 2, 8, 2, style});
    CheckRopeAppend(*this, {129, 2, 1, 128, 64, style});
  }
}

TEST_P(DeviceSuite, RopeAppendWithoutXLeavesXAlone) {
  const Values qkv = Random(3 * 16);
  const std::vector<AppendRow> append = {{0, 1, 2, 0, 3}};
  const Values empty(3 * 16 * 16, -7.0);
  RopeAppendArgs args;
  args.rows = 1;
  args.n_heads = args.n_kv_heads = 1;
  args.d_head = 16;
  args.d = 16;
  args.block_tokens = 16;
  args.style = RopeStyle::kNone;
  args.qkv = UploadT(qkv);
  args.append = UploadArray(append);
  args.arena = {UploadT(empty), 16 * 16 * SizeOf(type())};
  device_->RopeAppend(stream_, args);
  Values want = empty;
  std::copy(qkv.begin() + 16, qkv.begin() + 32, want.begin());
  std::copy(qkv.begin() + 32, qkv.begin() + 48, want.begin() + 256);
  ExpectClose(DownloadT(args.arena.base, 3 * 256), want, {0, 0}, "slots");
}

}  // namespace
}  // namespace spillway::device
