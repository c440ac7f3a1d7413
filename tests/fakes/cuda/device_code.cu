#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/simt.h"
#include "engine/device/cuda/tensor_core.h"
#include "tests/fakes/cuda/device_code.h"

namespace spillway::fakes::cuda {
namespace {

using device::cuda::AsyncCommit;
using device::cuda::AsyncCopy16;
using device::cuda::AsyncWait;
using device::cuda::KernelStream;
using device::cuda::kWarpThreads;
using device::cuda::kWholeWarp;
using device::cuda::Launch;
using device::cuda::LaunchShape;
using device::cuda::LetLaterKernelsBegin;
using device::cuda::LoadMatrix2;
using device::cuda::LoadMatrix2Transposed;
using device::cuda::LoadMatrix4;
using device::cuda::LoadMatrix4Transposed;
using device::cuda::Mma16816;
using device::cuda::SharedAs;
using device::cuda::WaitForEarlierKernels;

LaunchShape OneWarp(size_t shared_bytes = 0) { return {dim3(1), dim3(kWarpThreads), shared_bytes}; }

cudaError_t Finish(cudaError_t launched) {
  return launched != cudaSuccess ? launched : cudaDeviceSynchronize();
}

__global__ void Shuffles(int* out, int width, int operand) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(kWholeWarp, lane, operand, width);
  out[32 + lane] = __shfl_xor_sync(kWholeWarp, lane, operand, width);
  out[64 + lane] = __shfl_up_sync(kWholeWarp, lane, static_cast<unsigned>(operand), width);
  out[96 + lane] = __shfl_down_sync(kWholeWarp, lane, static_cast<unsigned>(operand), width);
}

__global__ void Votes(int* out) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpThreads;
  int* mine = out + thread * 7;
  mine[0] = __any_sync(kWholeWarp, lane == 5);
  mine[1] = __all_sync(kWholeWarp, lane < 31);
  mine[2] = static_cast<int>(__match_any_sync(kWholeWarp, lane % 4));
  mine[3] = __syncthreads_or(thread == 50);
  mine[4] = __syncthreads_and(thread != 50);
  mine[5] = __syncthreads_count(thread < 40);
  mine[6] = static_cast<int>(__ballot_sync(kWholeWarp, thread % 3 == 0));
}

struct ReverseShared {
  int at[1024];
};

__global__ void Reverse(int* values) {
  ReverseShared& shared = SharedAs<ReverseShared>();
  shared.at[threadIdx.x] = values[threadIdx.x];
  __syncthreads();
  values[threadIdx.x] = shared.at[blockDim.x - 1 - threadIdx.x];
}

__global__ void Atomics(int* counts, float* total, int* most) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(&counts[index % 4], 1);
  atomicAdd(total, 0.5F);
  atomicMax(most, index);
}

__global__ void Rounding(const float* in, int n, uint16_t* half, uint16_t* bfloat16) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  half[i] = __half_as_ushort(__float2half_rn(in[i]));
  bfloat16[i] = __bfloat16_as_ushort(__float2bfloat16_rn(in[i]));
}

__global__ void Widening(const uint16_t* in, int n, float* half, float* bfloat16) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  half[i] = __half2float(__ushort_as_half(in[i]));
  bfloat16[i] = __bfloat162float(__ushort_as_bfloat16(in[i]));
}

struct alignas(16) Tiles {
  uint16_t at[4][8][8];
};

__global__ void MatrixLoads(MatrixLoad load, const uint16_t* tiles, uint32_t* out) {
  Tiles& shared = SharedAs<Tiles>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += kWarpThreads) shared.at[i / 64][i / 8 % 8][i % 8] = tiles[i];
  __syncwarp();
  const void* row = shared.at[lane / 8][lane % 8];
  uint32_t r[4] = {};
  uint32_t two[2] = {};
  switch (load) {
    case MatrixLoad::k4:
      LoadMatrix4(r, row);
      break;
    case MatrixLoad::k4Transposed:
      LoadMatrix4Transposed(r, row);
      break;
    case MatrixLoad::k2:
      LoadMatrix2(two, row);
      break;
    case MatrixLoad::k2Transposed:
      LoadMatrix2Transposed(two, row);
      break;
  }
  const bool four = load == MatrixLoad::k4 || load == MatrixLoad::k4Transposed;
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = four ? r[i] : i < 2 ? two[i] : 0;
}

template <typename T>
__global__ void OneMma(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t my_a[4];
  uint32_t my_b[2];
  float my_d[4];
  for (int i = 0; i < 4; ++i) my_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) my_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) my_d[i] = d[lane * 4 + i];
  Mma16816<T>(my_d, my_a, my_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = my_d[i];
}

struct alignas(16) Pieces {
  uint8_t at[kWarpThreads][16];
};

__global__ void AsyncCopies(const uint8_t* in, uint8_t* out) {
  Pieces& shared = SharedAs<Pieces>();
  const int lane = static_cast<int>(threadIdx.x);
  AsyncCopy16(shared.at[lane], in + lane * 16, lane % 17);
  AsyncCommit();
  AsyncWait<0>();
  for (int i = 0; i < 16; ++i) out[lane * 16 + i] = shared.at[lane][i];
}

struct alignas(16) ProductShared {
  uint16_t a[2][16][16];
  uint16_t b[2][8][16];
};

__global__ void TiledProduct(const uint16_t* a, const uint16_t* b, int k, float* d) {
  ProductShared& shared = SharedAs<ProductShared>();
  const int lane = static_cast<int>(threadIdx.x);
  const auto load = [&](int tile) {
    const int from = tile * 16 + lane % 2 * 8;
    const int row = lane / 2;
    AsyncCopy16(&shared.a[tile % 2][row][lane % 2 * 8], a + row * k + from);
    if (row < 8) AsyncCopy16(&shared.b[tile % 2][row][lane % 2 * 8], b + row * k + from);
    AsyncCommit();
  };
  float sums[4] = {};
  const int tiles = k / 16;
  load(0);
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      load(tile + 1);
      AsyncWait<1>();
    } else {
      AsyncWait<0>();
    }
    __syncwarp();
    uint32_t my_a[4];
    uint32_t my_b[2];
    LoadMatrix4(my_a, &shared.a[tile % 2][lane % 16][lane / 16 * 8]);
    LoadMatrix2(my_b, &shared.b[tile % 2][lane % 8][lane / 8 % 2 * 8]);
    Mma16816<__nv_bfloat16>(sums, my_a, my_b);
    __syncwarp();
  }
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + (i < 2 ? 0 : 8);
    d[row * 8 + lane % 4 * 2 + i % 2] = sums[i];
  }
}

__global__ void Link(const uint32_t* from, uint32_t* to) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  uint32_t value = from[gridDim.x * blockDim.x - 1 - i];
  // Blocks end at different times.
  for (unsigned round = 0; round <= 50 * (blockIdx.x % 5); ++round) value = 3 * value + 1;
  to[i] = value;
}

}  // namespace

cudaError_t RunShuffles(int* out, int width, int operand) {
  return Finish(Launch(Shuffles, OneWarp(), nullptr, out, width, operand));
}

cudaError_t RunVotes(int* out) { return Finish(Launch(Votes, {dim3(1), dim3(64)}, nullptr, out)); }

cudaError_t RunReverse(int* values, int n) {
  return Finish(
      Launch(Reverse, {dim3(1), dim3(static_cast<unsigned>(n)), sizeof(ReverseShared)}, nullptr, values));
}

cudaError_t RunAtomics(int blocks, int* counts, float* total, int* most) {
  return Finish(
      Launch(Atomics, {dim3(static_cast<unsigned>(blocks)), dim3(64)}, nullptr, counts, total, most));
}

cudaError_t RunRounding(const float* in, int n, uint16_t* half, uint16_t* bfloat16) {
  const LaunchShape shape{dim3(static_cast<unsigned>((n + 255) / 256)), dim3(256)};
  return Finish(Launch(Rounding, shape, nullptr, in, n, half, bfloat16));
}

cudaError_t RunWidening(const uint16_t* in, int n, float* half, float* bfloat16) {
  const LaunchShape shape{dim3(static_cast<unsigned>((n + 255) / 256)), dim3(256)};
  return Finish(Launch(Widening, shape, nullptr, in, n, half, bfloat16));
}

cudaError_t RunMatrixLoad(MatrixLoad load, const uint16_t* tiles, uint32_t* r) {
  return Finish(Launch(MatrixLoads, OneWarp(sizeof(Tiles)), nullptr, load, tiles, r));
}

cudaError_t RunMma(bool half, const uint32_t* a, const uint32_t* b, float* d) {
  return Finish(half ? Launch(OneMma<__half>, OneWarp(), nullptr, a, b, d)
                     : Launch(OneMma<__nv_bfloat16>, OneWarp(), nullptr, a, b, d));
}

cudaError_t RunAsyncCopies(const uint8_t* in, uint8_t* out) {
  return Finish(Launch(AsyncCopies, OneWarp(sizeof(Pieces)), nullptr, in, out));
}

cudaError_t RunTiledProduct(const uint16_t* a, const uint16_t* b, int k, float* d) {
  return Finish(Launch(TiledProduct, OneWarp(sizeof(ProductShared)), nullptr, a, b, k, d));
}

bool KernelsCanOverlap() {
  int major = 0;
  cudaFuncAttributes attributes;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess && major >= 9 &&
         cudaFuncGetAttributes(&attributes, Link) == cudaSuccess && attributes.ptxVersion >= 90;
}

cudaError_t RunChain(int kernels, bool overlap, uint32_t* from, uint32_t* to) {
  cudaStream_t stream = nullptr;
  if (const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
      error != cudaSuccess) {
    return error;
  }
  cudaError_t error = cudaSuccess;
  for (int k = 0; k < kernels && error == cudaSuccess; ++k) {
    error = Launch(Link, {dim3(kChainBlocks), dim3(64)}, KernelStream(stream, overlap),
                   k % 2 == 0 ? from : to, k % 2 == 0 ? to : from);
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  const cudaError_t destroyed = cudaStreamDestroy(stream);
  return error != cudaSuccess ? error : destroyed;
}

}  // namespace spillway::fakes::cuda
