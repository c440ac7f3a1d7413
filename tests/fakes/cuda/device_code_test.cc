// What the documentation of CUDA and PTX says of the kernels of device_code.cu, for the emulator and for a
// GPU.
#include "tests/fakes/cuda/device_code.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

namespace spillway::fakes::cuda {
namespace {

using testing::Each;

class DeviceCode : public testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    const std::string missing = StartDevice(GetParam());
    if (!missing.empty()) GTEST_SKIP() << missing;
  }
  void TearDown() override {
    for (void* memory : allocated_) EXPECT_EQ(cudaFree(memory), cudaSuccess);
  }

  template <typename T>
  T* Device(const std::vector<T>& values) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, values.size() * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
    allocated_.push_back(memory);
    return static_cast<T*>(memory);
  }
  template <typename T>
  std::vector<T> Host(const T* device, size_t n) {
    std::vector<T> values(n);
    EXPECT_EQ(cudaMemcpy(values.data(), device, n * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  std::vector<void*> allocated_;
};

INSTANTIATE_TEST_SUITE_P(Seeds, DeviceCode, testing::ValuesIn(DeviceSeeds()));

// PTX, shfl.sync: j is the source, and what lies beyond the segment's bound keeps its own.
TEST_P(DeviceCode, ShufflesTakeTheLaneThatPtxSays) {
  for (int width : {2, 8, 16, 32}) {
    for (int operand : {0, 1, 3, 7, 16, 31}) {
      int* out = Device(std::vector<int>(128));
      ASSERT_EQ(RunShuffles(out, width, operand), cudaSuccess);
      const std::vector<int> got = Host(out, 128);
      const int segment_mask = 32 - width;
      for (int lane = 0; lane < 32; ++lane) {
        const int min_lane = lane & segment_mask;
        const int max_lane = min_lane | (31 & ~segment_mask);
        EXPECT_EQ(got[lane], min_lane | (operand & ~segment_mask));
        EXPECT_EQ(got[32 + lane], (lane ^ operand) <= max_lane ? lane ^ operand : lane);
        EXPECT_EQ(got[64 + lane], lane - operand >= min_lane ? lane - operand : lane);
        EXPECT_EQ(got[96 + lane], lane + operand <= max_lane ? lane + operand : lane);
      }
    }
  }
}

TEST_P(DeviceCode, VotesCountEveryThread) {
  int* out = Device(std::vector<int>(64 * 7));
  ASSERT_EQ(RunVotes(out), cudaSuccess);
  const auto got = Host(out, 64 * 7);
  for (int i = 0; i < 64; ++i) {
    const std::vector<int> mine(got.begin() + i * 7, got.begin() + i * 7 + 7);
    // Multiples of 3 from lane 0 (thread 0) or from lane 1 (thread 33) on.
    const auto thirds = static_cast<int>(i < 32 ? 0x49249249U : 0x92492492U);
    EXPECT_EQ(mine, (std::vector<int>{1, 0, 0x11111111 << (i % 4), 1, 0, 40, thirds})) << i;
  }
}

TEST_P(DeviceCode, BarriersOrderSharedMemory) {
  for (int n : {32, 64, 96, 1024}) {
    std::vector<int> values(static_cast<size_t>(n));
    std::iota(values.begin(), values.end(), 0);
    int* device = Device(values);
    ASSERT_EQ(RunReverse(device, n), cudaSuccess);
    EXPECT_EQ(Host(device, values.size()), std::vector<int>(values.rbegin(), values.rend()));
  }
}

TEST_P(DeviceCode, AtomicsAddUp) {
  int* counts = Device(std::vector<int>(4));
  float* total = Device(std::vector<float>(1));
  int* most = Device(std::vector<int>(1));
  ASSERT_EQ(RunAtomics(10, counts, total, most), cudaSuccess);
  EXPECT_THAT(Host(counts, 4), Each(160));
  EXPECT_EQ(Host(total, 1)[0], 320);
  EXPECT_EQ(Host(most, 1)[0], 639);
}

TEST_P(DeviceCode, SixteenBitFormatsAreThoseOfTheHost) {
  std::vector<uint16_t> bits(0x10000);
  std::iota(bits.begin(), bits.end(), uint16_t{0});
  float* half = Device(std::vector<float>(bits.size()));
  float* bfloat16 = Device(std::vector<float>(bits.size()));
  ASSERT_EQ(RunWidening(Device(bits), static_cast<int>(bits.size()), half, bfloat16), cudaSuccess);
  const auto got_half = Host(half, bits.size());
  const auto got_bfloat16 = Host(bfloat16, bits.size());
  std::vector<float> floats;
  for (size_t i = 0; i < bits.size(); ++i) {
    const auto expected_half = static_cast<float>(std::bit_cast<_Float16>(bits[i]));
    const auto expected_bfloat16 = std::bit_cast<float>(uint32_t{bits[i]} << 16);
    EXPECT_TRUE(got_half[i] == expected_half || (std::isnan(got_half[i]) && std::isnan(expected_half))) << i;
    EXPECT_TRUE(got_bfloat16[i] == expected_bfloat16 ||
                (std::isnan(got_bfloat16[i]) && std::isnan(expected_bfloat16)))
        << i;
    for (uint32_t offset : {0U, 1U, 0xfffU, 0x1000U, 0x1001U, 0x7fffU, 0x8000U, 0x8001U}) {
      floats.push_back(std::bit_cast<float>(std::bit_cast<uint32_t>(expected_half) + offset));
      floats.push_back(std::bit_cast<float>((uint32_t{bits[i]} << 16) + offset));
    }
  }
  uint16_t* to_half = Device(std::vector<uint16_t>(floats.size()));
  uint16_t* to_bfloat16 = Device(std::vector<uint16_t>(floats.size()));
  ASSERT_EQ(RunRounding(Device(floats), static_cast<int>(floats.size()), to_half, to_bfloat16), cudaSuccess);
  const auto halves = Host(to_half, floats.size());
  const auto bfloat16s = Host(to_bfloat16, floats.size());
  for (size_t i = 0; i < floats.size(); ++i) {
    if (std::isnan(floats[i])) {
      EXPECT_EQ(halves[i], 0x7fff) << floats[i];
      EXPECT_EQ(bfloat16s[i], 0x7fff) << floats[i];
      continue;
    }
    EXPECT_EQ(halves[i], std::bit_cast<uint16_t>(static_cast<_Float16>(floats[i]))) << floats[i];
    const auto wide = std::bit_cast<uint32_t>(floats[i]);
    EXPECT_EQ(bfloat16s[i], static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16)) << floats[i];
  }
}

// PTX, ldmatrix: register i of lane l holds row l / 4 of matrix i, columns 2 (l % 4) and the next;
// transposed, column l / 4, rows 2 (l % 4) and the next.
TEST_P(DeviceCode, MatrixLoadsGiveEachLaneWhatPtxSays) {
  std::vector<uint16_t> tiles(256);
  std::iota(tiles.begin(), tiles.end(), uint16_t{1});
  const uint16_t* device = Device(tiles);
  for (MatrixLoad load :
       {MatrixLoad::k4, MatrixLoad::k4Transposed, MatrixLoad::k2, MatrixLoad::k2Transposed}) {
    const bool transposed = load == MatrixLoad::k4Transposed || load == MatrixLoad::k2Transposed;
    const int n = load == MatrixLoad::k4 || load == MatrixLoad::k4Transposed ? 4 : 2;
    uint32_t* r = Device(std::vector<uint32_t>(128));
    ASSERT_EQ(RunMatrixLoad(load, device, r), cudaSuccess);
    const auto got = Host(r, 128);
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < n; ++i) {
        const int major = lane / 4;
        const int minor = lane % 4 * 2;
        const auto element = [&](int row, int column) -> uint32_t {
          return tiles[i * 64 + row * 8 + column];
        };
        const uint32_t low = transposed ? element(minor, major) : element(major, minor);
        const uint32_t high = transposed ? element(minor + 1, major) : element(major, minor + 1);
        EXPECT_EQ(got[lane * 4 + i], low | high << 16) << lane << " " << i;
      }
    }
  }
}

// PTX, "Matrix Fragments for mma.m16n8k16 with floating point type", written out as its figures show it.
TEST_P(DeviceCode, TensorCoresMultiplyInPtxsLayout) {
  for (bool half : {false, true}) {
    const auto pack = [half](float low, float high) -> uint32_t {
      const auto bits = [half](float x) -> uint32_t {
        return half ? std::bit_cast<uint16_t>(static_cast<_Float16>(x)) : std::bit_cast<uint32_t>(x) >> 16;
      };
      return bits(low) | bits(high) << 16;
    };
    // Small integers, so that every sum is exact whatever its order; no two rows or columns alike.
    float a[16][16];
    float b[16][8];
    float c[16][8];
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) a[i][j] = static_cast<float>((i * 5 + j * 3 + i * j) % 15 - 7);
      for (int j = 0; j < 8; ++j) b[i][j] = static_cast<float>((i * 7 + j * 11 + i * j) % 13 - 6);
      for (int j = 0; j < 8; ++j) c[i][j] = static_cast<float>(i * 100 + j);
    }
    std::vector<uint32_t> lane_a(128);
    std::vector<uint32_t> lane_b(64);
    std::vector<float> lane_d(128);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4;
      const int p = lane % 4 * 2;
      lane_a[lane * 4 + 0] = pack(a[g][p], a[g][p + 1]);
      lane_a[lane * 4 + 1] = pack(a[g + 8][p], a[g + 8][p + 1]);
      lane_a[lane * 4 + 2] = pack(a[g][p + 8], a[g][p + 9]);
      lane_a[lane * 4 + 3] = pack(a[g + 8][p + 8], a[g + 8][p + 9]);
      lane_b[lane * 2 + 0] = pack(b[p][g], b[p + 1][g]);
      lane_b[lane * 2 + 1] = pack(b[p + 8][g], b[p + 9][g]);
      lane_d[lane * 4 + 0] = c[g][p];
      lane_d[lane * 4 + 1] = c[g][p + 1];
      lane_d[lane * 4 + 2] = c[g + 8][p];
      lane_d[lane * 4 + 3] = c[g + 8][p + 1];
    }
    float* d = Device(lane_d);
    ASSERT_EQ(RunMma(half, Device(lane_a), Device(lane_b), d), cudaSuccess);
    const auto got = Host(d, 128);
    const auto expected = [&](int row, int column) {
      float sum = c[row][column];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      return sum;
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4;
      const int p = lane % 4 * 2;
      EXPECT_EQ(got[lane * 4 + 0], expected(g, p));
      EXPECT_EQ(got[lane * 4 + 1], expected(g, p + 1));
      EXPECT_EQ(got[lane * 4 + 2], expected(g + 8, p));
      EXPECT_EQ(got[lane * 4 + 3], expected(g + 8, p + 1));
    }
  }
}

TEST_P(DeviceCode, AsynchronousCopiesFillUpWithZeros) {
  std::vector<uint8_t> in(512);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(i % 255 + 1);
  uint8_t* out = Device(std::vector<uint8_t>(512));
  ASSERT_EQ(RunAsyncCopies(Device(in), out), cudaSuccess);
  const auto got = Host(out, 512);
  for (size_t i = 0; i < in.size(); ++i) {
    const size_t valid = i / 16 % 17;
    EXPECT_EQ(got[i], i % 16 < valid ? in[i] : 0) << i;
  }
}

TEST_P(DeviceCode, TilesFollowOneAnotherThroughTwoBuffers) {
  for (int k : {16, 32, 160}) {
    std::vector<uint16_t> a(static_cast<size_t>(16 * k));
    std::vector<uint16_t> b(static_cast<size_t>(8 * k));
    std::vector<float> wide_a;
    std::vector<float> wide_b;
    const auto fill = [](std::vector<uint16_t>& to, std::vector<float>& wide, int step) {
      for (size_t i = 0; i < to.size(); ++i) {
        const auto value = static_cast<float>(static_cast<int>(i * static_cast<size_t>(step) % 31) - 15);
        wide.push_back(value);
        to[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
      }
    };
    fill(a, wide_a, 7);
    fill(b, wide_b, 11);
    float* d = Device(std::vector<float>(128));
    ASSERT_EQ(RunTiledProduct(Device(a), Device(b), k, d), cudaSuccess);
    const auto got = Host(d, 128);
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        float sum = 0;
        for (int l = 0; l < k; ++l) sum += wide_a[i * k + l] * wide_b[j * k + l];
        EXPECT_EQ(got[i * 8 + j], sum) << i << " " << j;
      }
    }
  }
}

// Programming guide, "Programmatic Dependent Launch": what the kernel before wrote is there behind the wait.
TEST_P(DeviceCode, KernelsThatOverlapSeeWhatTheOneBeforeWrote) {
  constexpr int kKernels = 9;
  std::vector<uint32_t> values(kChainBlocks * 64);
  std::iota(values.begin(), values.end(), uint32_t{7});
  std::vector<uint32_t> expected = values;
  for (int k = 0; k < kKernels; ++k) {
    std::reverse(expected.begin(), expected.end());
    for (size_t i = 0; i < expected.size(); ++i) {
      for (size_t round = 0; round <= 50 * (i / 64 % 5); ++round) expected[i] = 3 * expected[i] + 1;
    }
  }
  for (const bool overlap : {false, true}) {
    if (overlap && !KernelsCanOverlap()) continue;
    uint32_t* from = Device(values);
    uint32_t* to = Device(std::vector<uint32_t>(values.size()));
    ASSERT_EQ(RunChain(kKernels, overlap, from, to), cudaSuccess);
    EXPECT_EQ(Host(to, values.size()), expected) << (overlap ? "overlapping" : "one after another");
  }
}

}  // namespace
}  // namespace spillway::fakes::cuda
