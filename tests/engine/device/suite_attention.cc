// PartialAttention and MergeAttention.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/engine/device/device_suite.h"
#include "tests/engine/device/reference.h"

namespace spillway::device {
namespace {

using reference::Values;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Heads {
  int64_t n_heads = 1;
  int64_t n_kv_heads = 1;
  int64_t d_head = 64;
  int64_t block_tokens = 16;
};

// A sequence of the test: how many rows are queried and which of its keys one call reads.
struct Sequence {
  int64_t first_position;  // of the queried rows
  int64_t n_rows;
  int64_t key_begin;
  int64_t key_end;
};

// The memory of a few sequences' blocks, filled at random; what no key fills is NaN.
class Cache {
 public:
  Cache(DeviceSuite& suite, const Heads& heads, const std::vector<Sequence>& sequences)
      : suite_(suite), heads_(heads), sequences_(sequences) {
    plane_ = heads.n_kv_heads * heads.block_tokens * heads.d_head;
    slot_elements_ = plane_ + 8;
    Values slots;
    for (const Sequence& s : sequences) {
      AttentionSequence out;
      out.first_row = static_cast<int32_t>(n_rows_);
      out.n_rows = static_cast<int32_t>(s.n_rows);
      out.first_position = static_cast<int32_t>(s.first_position);
      out.first_block = static_cast<int32_t>(blocks_.size());
      out.key_begin = static_cast<int32_t>(s.key_begin);
      out.key_end = static_cast<int32_t>(s.key_end);
      const int64_t keys = s.key_end - s.key_begin;
      out.n_blocks = static_cast<int32_t>((keys + heads.block_tokens - 1) / heads.block_tokens);
      for (int64_t b = 0; b < out.n_blocks; ++b) {
        const int32_t slot = static_cast<int32_t>(2 * blocks_.size());
        blocks_.push_back({slot + 1, slot});  // V below K
      }
      table_.push_back(out);
      n_rows_ += s.n_rows;
    }
    // Blocks lie in reverse order, so that runs are not contiguous.
    const int32_t n_slots = static_cast<int32_t>(2 * blocks_.size());
    for (AttentionBlock& block : blocks_) block = {n_slots - 1 - block.k_slot, n_slots - 1 - block.v_slot};
    slots_.assign(static_cast<size_t>(n_slots * slot_elements_), std::nan(""));
    for (size_t s = 0; s < sequences.size(); ++s) {
      for (int64_t key = sequences[s].key_begin; key < sequences[s].key_end; ++key) {
        for (int64_t h = 0; h < heads.n_kv_heads; ++h) {
          const Values k = suite.Random(heads.d_head);
          const Values v = suite.Random(heads.d_head);
          std::copy(k.begin(), k.end(), slots_.begin() + Place(s, key, h, true));
          std::copy(v.begin(), v.end(), slots_.begin() + Place(s, key, h, false));
        }
      }
    }
  }

  int64_t n_rows() const { return n_rows_; }
  const std::vector<AttentionSequence>& table() const { return table_; }

  PartialAttentionArgs Args(const Values& q, int64_t q_stride) {
    PartialAttentionArgs args;
    args.n_sequences = static_cast<int32_t>(table_.size());
    args.rows = static_cast<int32_t>(n_rows_);
    args.n_heads = static_cast<int32_t>(heads_.n_heads);
    args.n_kv_heads = static_cast<int32_t>(heads_.n_kv_heads);
    args.d_head = static_cast<int32_t>(heads_.d_head);
    args.block_tokens = static_cast<int32_t>(heads_.block_tokens);
    args.q_stride = static_cast<int32_t>(q_stride);
    args.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(heads_.d_head)));
    args.q = suite_.UploadT(q);
    args.sequences = suite_.UploadArray(table_);
    args.blocks = suite_.UploadArray(blocks_);
    args.arena = {suite_.UploadT(slots_), slot_elements_ * SizeOf(suite_.type())};
    AllocateResults(&args, 1);
    return args;
  }
  void AllocateResults(PartialAttentionArgs* args, int64_t parts) {
    const int64_t items = parts * n_rows_ * heads_.n_heads;
    args->acc = suite_.Allocate(items * heads_.d_head * 4);
    args->max = suite_.Allocate(items * 4);
    args->sum = suite_.Allocate(items * 4);
  }

  // Of row `i` of sequence `s` and query head `head`.
  reference::Partial Want(const Values& q, int64_t q_stride, double scale, size_t s, int64_t i,
                          int64_t head) const {
    const int64_t row = table_[s].first_row + i;
    const Values query(q.begin() + row * q_stride + head * heads_.d_head,
                       q.begin() + row * q_stride + (head + 1) * heads_.d_head);
    std::vector<Values> keys;
    std::vector<Values> values;
    const int64_t end = std::min(sequences_[s].key_end, sequences_[s].first_position + i + 1);
    for (int64_t key = sequences_[s].key_begin; key < end; ++key) {
      for (bool is_key : {true, false}) {
        const int64_t at = Place(s, key, head / (heads_.n_heads / heads_.n_kv_heads), is_key);
        (is_key ? keys : values).emplace_back(slots_.begin() + at, slots_.begin() + at + heads_.d_head);
      }
    }
    return reference::Attend(query, keys, values, scale);
  }

 private:
  int64_t Place(size_t s, int64_t key, int64_t kv_head, bool is_key) const {
    const int64_t offset = key - sequences_[s].key_begin;
    const AttentionBlock& block = blocks_[table_[s].first_block + offset / heads_.block_tokens];
    const int64_t slot = is_key ? block.k_slot : block.v_slot;
    return slot * slot_elements_ +
           (kv_head * heads_.block_tokens + offset % heads_.block_tokens) * heads_.d_head;
  }

  DeviceSuite& suite_;
  const Heads heads_;
  const std::vector<Sequence> sequences_;
  int64_t plane_;
  int64_t slot_elements_;
  int64_t n_rows_ = 0;
  std::vector<AttentionSequence> table_;
  std::vector<AttentionBlock> blocks_;
  Values slots_;
};

// Weights are rounded to T before they multiply values: half a unit each, averaged over the keys.
Tolerance OutputTolerance(DType type) { return {1e-5 + 2 * UnitOf(type), 1e-5 + 2 * UnitOf(type)}; }

void CheckAttention(DeviceSuite& suite, const Heads& heads, const std::vector<Sequence>& sequences) {
  Cache cache(suite, heads, sequences);
  std::string what = absl::StrCat(heads.n_heads, "/", heads.n_kv_heads, " heads of ", heads.d_head,
                                  ", blocks of ", heads.block_tokens);
  for (const Sequence& s : sequences) {
    absl::StrAppend(&what, "; ", s.n_rows, " rows at ", s.first_position, " on [", s.key_begin, ", ",
                    s.key_end, ")");
  }
  const int64_t q_stride = heads.n_heads * heads.d_head + 8;
  const Values q = suite.Random(cache.n_rows() * q_stride);
  PartialAttentionArgs args = cache.Args(q, q_stride);
  suite.device_->PartialAttention(suite.stream_, args);

  MergeAttentionArgs merge;
  merge.rows = args.rows;
  merge.n_heads = args.n_heads;
  merge.d_head = args.d_head;
  merge.acc = args.acc;
  merge.max = args.max;
  merge.sum = args.sum;
  const int64_t items = cache.n_rows() * heads.n_heads;
  merge.out = suite.Allocate(items * heads.d_head * 4);
  suite.device_->MergeAttention(suite.stream_, merge);

  Values want_max;
  Values want_sum;
  Values want_out;
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int64_t i = 0; i < sequences[s].n_rows; ++i) {
      for (int64_t h = 0; h < heads.n_heads; ++h) {
        const reference::Partial want = cache.Want(q, q_stride, static_cast<double>(args.scale), s, i, h);
        want_max.push_back(want.max);
        want_sum.push_back(want.sum);
        for (double x : want.acc) want_out.push_back(want.sum == 0 ? 0 : x / want.sum);
      }
    }
  }
  ExpectClose(suite.DownloadF32(args.max, items), want_max, {1e-5, 1e-5}, what + ", max");
  ExpectClose(suite.DownloadF32(args.sum, items), want_sum, {1e-5, 1e-4}, what + ", sum");
  ExpectClose(suite.DownloadT(merge.out, items * heads.d_head), want_out, OutputTolerance(suite.type()),
              what);
}

TEST_P(DeviceSuite, OneRowAttendsToItsKeys) {
  for (int64_t group : {1, 3, 8}) {
    for (int64_t keys : {1, 15, 16, 17, 63, 64, 65, 200, 513}) {
      CheckAttention(*this, {2 * group, 2, 64, 16}, {{keys - 1, 1, 0, keys}});
    }
  }
}

TEST_P(DeviceSuite, HeadsOfEverySizeAttend) {
  for (int64_t d_head : {8, 16, 24, 40, 72, 80, 96, 128, 256}) {
    CheckAttention(*this, {4, 2, d_head, 32}, {{90, 1, 0, 91}, {20, 9, 0, 29}});
  }
  CheckAttention(*this, {2, 1, 13, 16}, {{40, 3, 0, 43}});
}

TEST_P(DeviceSuite, ManyRowsAttendCausally) {
  for (int64_t group : {1, 3, 8}) {
    for (int64_t rows : {2, 7, 64, 129}) {
      CheckAttention(*this, {group, 1, 32, 16}, {{0, rows, 0, rows}});
      CheckAttention(*this, {group, 1, 32, 64}, {{70, rows, 0, 70 + rows}});
    }
  }
}

TEST_P(DeviceSuite, RaggedBatchesAttend) {
  CheckAttention(
      *this, {9, 3, 64, 16},
      {{0, 1, 0, 1}, {700, 1, 0, 701}, {16, 33, 0, 49}, {99, 1, 0, 100}, {2047, 1, 0, 2048}, {5, 2, 0, 7}});
}

TEST_P(DeviceSuite, LongContextsAttend) {
  CheckAttention(*this, {3, 1, 64, 64}, {{5000, 1, 0, 5001}});
  CheckAttention(*this, {32, 1, 16, 16}, {{1100, 1, 0, 1101}});
}

TEST_P(DeviceSuite, OneLongSequenceAttends) {
  // A device may cut the keys of one sequence into as many parts as it has processors.
  for (int64_t keys : {1023, 1024, 1025, 1100, 2049, 4100}) {
    CheckAttention(*this, {4, 1, 64, 16}, {{keys - 1, 1, 0, keys}});
  }
  CheckAttention(*this, {8, 2, 128, 64}, {{2999, 1, 0, 3000}});
}

TEST_P(DeviceSuite, TilesOfKeysFollowEachOther) {
  // A device may bring keys in tiles of 32, 64 or 128.
  for (int64_t keys : {31, 32, 33, 64, 65, 96, 97, 127, 129, 192, 193, 257, 330}) {
    CheckAttention(*this, {8, 2, 128, 16}, {{keys - 30, 30, 0, keys}});
    CheckAttention(*this, {2, 1, 256, 64}, {{keys - 9, 9, 0, keys}});
  }
  CheckAttention(*this, {4, 2, 64, 128}, {{170, 150, 0, 320}});
  CheckAttention(*this, {4, 2, 80, 32}, {{0, 200, 0, 200}});
  CheckAttention(*this, {4, 2, 96, 16}, {{100, 20, 16, 112}});
}

TEST_P(DeviceSuite, ManySequencesOfOneRowAttend) {
  std::vector<Sequence> sequences;
  for (int64_t keys : {1, 16, 63, 64, 65, 127, 128, 129, 193, 256, 321, 500, 2, 1000, 640, 333}) {
    sequences.push_back({keys - 1, 1, 0, keys});
  }
  CheckAttention(*this, {16, 4, 128, 16}, sequences);
  CheckAttention(*this, {4, 2, 256, 128}, sequences);
}

TEST_P(DeviceSuite, RangesThatStartLaterAttend) {
  // Part of the keys only, as when the rest comes in other calls; some rows see some or none of them.
  CheckAttention(*this, {2, 1, 32, 16}, {{100, 1, 32, 64}, {60, 20, 64, 80}, {10, 1, 64, 96}});
  // Ranges that end before the rows do, anywhere in a tile.
  for (int64_t keys : {1, 15, 31, 47, 63, 65, 127, 191}) {
    CheckAttention(*this, {4, 2, 64, 16}, {{900, 1, 32, 32 + keys}, {400, 20, 16, 16 + keys}});
  }
}

TEST_P(DeviceSuite, RowsWithoutKeysGetZero) {
  CheckAttention(*this, {4, 2, 32, 16}, {{5, 3, 0, 0}, {20, 1, 0, 21}});
}

TEST_P(DeviceSuite, MergedPartsEqualTheWhole) {
  const Heads heads{6, 2, 64, 16};
  const std::vector<Sequence> whole = {{150, 1, 0, 151}, {40, 30, 0, 70}};
  const int64_t q_stride = heads.n_heads * heads.d_head;
  Cache cache(*this, heads, whole);
  const Values q = Random(cache.n_rows() * q_stride);
  PartialAttentionArgs args = cache.Args(q, q_stride);
  device_->PartialAttention(stream_, args);
  const int64_t items = cache.n_rows() * heads.n_heads;
  MergeAttentionArgs merge;
  merge.rows = args.rows;
  merge.n_heads = args.n_heads;
  merge.d_head = args.d_head;
  merge.acc = args.acc;
  merge.max = args.max;
  merge.sum = args.sum;
  merge.out = Allocate(items * heads.d_head * 4);
  device_->MergeAttention(stream_, merge);
  const Values unsplit = DownloadT(merge.out, items * heads.d_head);

  // The same keys in three parts, cut at block borders; the last part of the second sequence is empty.
  cache.AllocateResults(&args, 3);
  const std::vector<std::vector<int32_t>> cuts = {{0, 48, 64, 151}, {0, 16, 70, 70}};
  for (int64_t part = 0; part < 3; ++part) {
    std::vector<AttentionSequence> sequences = cache.table();
    for (size_t s = 0; s < sequences.size(); ++s) {
      sequences[s].key_begin = cuts[s][part];
      sequences[s].key_end = cuts[s][part + 1];
      sequences[s].first_block += sequences[s].key_begin / 16;
      sequences[s].n_blocks = (sequences[s].key_end - sequences[s].key_begin + 15) / 16;
    }
    PartialAttentionArgs part_args = args;
    part_args.sequences = UploadArray(sequences);
    part_args.acc = args.acc + part * items * heads.d_head * 4;
    part_args.max = args.max + part * items * 4;
    part_args.sum = args.sum + part * items * 4;
    device_->PartialAttention(stream_, part_args);
  }
  merge.n_parts = 3;
  merge.part_stride_rows = cache.n_rows();
  merge.acc = args.acc;
  merge.max = args.max;
  merge.sum = args.sum;
  device_->MergeAttention(stream_, merge);
  ExpectClose(DownloadT(merge.out, items * heads.d_head), unsplit, OutputTolerance(type()), "merged parts");
}

// The same keys range by range into the same accumulators, in any order and at any earlier positions.
TEST_P(DeviceSuite, AccumulatedRangesEqualTheWhole) {
  const Heads heads{6, 2, 64, 16};
  const std::vector<Sequence> whole = {{150, 1, 0, 151}, {64, 20, 0, 84}};
  const int64_t q_stride = heads.n_heads * heads.d_head;
  Cache cache(*this, heads, whole);
  const Values q = Random(cache.n_rows() * q_stride);
  PartialAttentionArgs args = cache.Args(q, q_stride);
  const int64_t items = cache.n_rows() * heads.n_heads;
  MergeAttentionArgs merge;
  merge.rows = args.rows;
  merge.n_heads = args.n_heads;
  merge.d_head = args.d_head;
  merge.acc = args.acc;
  merge.max = args.max;
  merge.sum = args.sum;
  merge.out = Allocate(items * heads.d_head * 4);
  device_->PartialAttention(stream_, args);
  device_->MergeAttention(stream_, merge);
  const Values unsplit = DownloadT(merge.out, items * heads.d_head);

  // Own rows first, as a step does; then ranges of earlier blocks, the later of which names the first keys,
  // shifted by a block; the second sequence is in two of the three calls.
  struct Range {
    std::vector<int32_t> begins, ends, shifts;
  };
  const Range ranges[] = {{{128, 64}, {151, 84}, {0, 0}}, {{32, 0}, {128, 64}, {16, 0}}, {{0}, {32}, {48}}};
  bool accumulate = false;
  for (const Range& range : ranges) {
    std::vector<AttentionSequence> sequences = cache.table();
    sequences.resize(range.begins.size());
    for (size_t s = 0; s < sequences.size(); ++s) {
      sequences[s].first_block += range.begins[s] / 16;
      sequences[s].n_blocks = (range.ends[s] - range.begins[s] + 15) / 16;
      sequences[s].key_begin = range.begins[s] + range.shifts[s];
      sequences[s].key_end = range.ends[s] + range.shifts[s];
    }
    PartialAttentionArgs part = args;
    part.n_sequences = static_cast<int32_t>(sequences.size());
    part.sequences = UploadArray(sequences);
    part.accumulate = accumulate;
    accumulate = true;
    device_->PartialAttention(stream_, part);
  }
  device_->MergeAttention(stream_, merge);
  ExpectClose(DownloadT(merge.out, items * heads.d_head), unsplit, OutputTolerance(type()), "accumulated");
}

TEST_P(DeviceSuite, AccumulatingNoKeysChangesNothing) {
  const Heads heads{4, 2, 32, 16};
  Cache cache(*this, heads, {{20, 2, 0, 22}});
  const Values q = Random(cache.n_rows() * 128);
  PartialAttentionArgs args = cache.Args(q, 128);
  device_->PartialAttention(stream_, args);
  const int64_t items = cache.n_rows() * heads.n_heads;
  const Values before = DownloadF32(args.acc, items * heads.d_head);
  std::vector<AttentionSequence> nothing = cache.table();
  nothing[0].key_end = nothing[0].key_begin;
  nothing[0].n_blocks = 0;
  args.sequences = UploadArray(nothing);
  args.accumulate = true;
  device_->PartialAttention(stream_, args);
  EXPECT_EQ(DownloadF32(args.acc, items * heads.d_head), before);
}

TEST_P(DeviceSuite, LargeScoresNeitherOverflowNorVanish) {
  const Heads heads{1, 1, 32, 16};
  Cache cache(*this, heads, {{99, 1, 0, 100}});
  const Values q = Random(32, 60);
  PartialAttentionArgs args = cache.Args(q, 32);
  args.scale = 1;
  device_->PartialAttention(stream_, args);
  const reference::Partial want = cache.Want(q, 32, 1, 0, 0, 0);
  ExpectClose(DownloadF32(args.max, 1), {want.max}, {0, 1e-5}, "max");
  ExpectClose(DownloadF32(args.sum, 1), {want.sum}, {1e-3, 1e-3}, "sum");
  ExpectClose(DownloadF32(args.acc, 32), want.acc, {1e-3 + 4 * UnitOf(type()), 1e-3 + 4 * UnitOf(type())},
              "acc");
}

// Parts lie further apart than there are rows, with anything between; scores may be so low that their
// exponentials are 0; and what a part without keys left in its place is not looked at.
TEST_P(DeviceSuite, MergedPartsWeighByTheirLargestScores) {
  for (const auto& [low, shift] : {std::pair{0.0, 0}, {-300.0, 0}, {-300.0, 1}}) {
    constexpr int64_t kRows = 2, kStride = 5, kWidth = 272;
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    Values max(2 * kStride, kNan), sum(2 * kStride, kNan), acc(2 * kStride * kWidth, kNan), want;
    const auto set = [&](int64_t part, int64_t row, double its_max, double its_sum, double its_acc) {
      max[part * kStride + row] = its_max;
      sum[part * kStride + row] = its_sum;
      std::fill_n(acc.begin() + (part * kStride + row) * kWidth, kWidth, its_acc);
    };
    set(0, 0, low, 2, 3);
    set(1, 0, low - 1, 4, 5);
    want.resize(kWidth, (3 + 5 * std::exp(-1)) / (2 + 4 * std::exp(-1)));
    set(0, 1, low, 2, 3);
    set(1, 1, -kInfinity, 0, kNan);
    want.resize(2 * kWidth, 1.5);
    const auto shifted = [shift](Values values) {
      values.insert(values.begin(), shift, 0.0);
      return values;
    };
    MergeAttentionArgs merge;
    merge.rows = kRows;
    merge.n_heads = 1;
    merge.d_head = kWidth;
    merge.n_parts = 2;
    merge.part_stride_rows = kStride;
    merge.acc = UploadF32(shifted(acc)) + shift * 4;
    merge.max = UploadF32(max);
    merge.sum = UploadF32(sum);
    merge.out = Allocate((kRows * kWidth + shift) * 4) + shift * SizeOf(type());
    device_->MergeAttention(stream_, merge);
    ExpectClose(DownloadT(merge.out, kRows * kWidth), want, {1e-6, 1.01 * UnitOf(type()) + 1e-5},
                absl::StrCat("from ", low, " shifted ", shift));
  }
}

TEST_P(DeviceSuite, MergeOfPartsThatReadNothingIsZero) {
  const Values minus_infinity(4, -kInfinity);
  const Values zeros(4 * 8, 0.0);
  MergeAttentionArgs merge;
  merge.rows = 1;
  merge.n_heads = 2;
  merge.d_head = 8;
  merge.n_parts = 2;
  merge.part_stride_rows = 1;
  merge.acc = UploadF32(zeros);
  merge.max = UploadF32(minus_infinity);
  merge.sum = UploadF32(Values(4, 0.0));
  merge.out = Allocate(2 * 8 * 4);
  device_->Fill(stream_, merge.out, 0x3f, 2 * 8 * 4);
  device_->MergeAttention(stream_, merge);
  ExpectClose(DownloadT(merge.out, 16), Values(16, 0.0), {0, 0}, "merge of nothing");
}

}  // namespace
}  // namespace spillway::device
