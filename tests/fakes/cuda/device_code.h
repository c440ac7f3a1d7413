// Small kernels whose results the CUDA documentation fixes, and how to run them. device_code_test.cc
// compares; it is linked with the emulator, and where nvcc is with the real runtime as well: so the same
// expectations can be shown to be a GPU's.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_DEVICE_CODE_H_
#define SPILLWAY_TESTS_FAKES_CUDA_DEVICE_CODE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace spillway::fakes::cuda {

// --- What differs between the two builds.
// Seeds to run each test with; a GPU has one, which means nothing.
std::vector<uint64_t> DeviceSeeds();
// Makes ready for a test; returns why there is no device, or "".
std::string StartDevice(uint64_t seed);

// --- The kernels. Pointers are to device memory; a warp each where not said otherwise.
// out[4][32]: __shfl_sync, xor, up, down of the lane's number.
cudaError_t RunShuffles(int* out, int width, int operand);
// out[64][7]: any, all, match_any (of lane % 4), syncthreads_or, _and, _count, ballot; of 64 threads.
cudaError_t RunVotes(int* out);
// Turns `values` [n] around through shared memory; n at most 1024 threads.
cudaError_t RunReverse(int* values, int n);
// counts[4] += threads by index % 4; total[0] += 0.5 each; most[0] = the largest index. `blocks` of 64.
cudaError_t RunAtomics(int blocks, int* counts, float* total, int* most);
cudaError_t RunRounding(const float* in, int n, uint16_t* half, uint16_t* bfloat16);
cudaError_t RunWidening(const uint16_t* in, int n, float* half, float* bfloat16);

enum class MatrixLoad { k4, k4Transposed, k2, k2Transposed };
// tiles: [4][8][8]; r: [32][4] (of two only where two are loaded).
cudaError_t RunMatrixLoad(MatrixLoad load, const uint16_t* tiles, uint32_t* r);
// a: [32][4], b: [32][2], d: [32][4], in and out.
cudaError_t RunMma(bool half, const uint32_t* a, const uint32_t* b, float* d);
// out[32][16 bytes] = in, of which of each lane's 16 bytes lane % 17 are copied.
cudaError_t RunAsyncCopies(const uint8_t* in, uint8_t* out);
// d[16][8] = a[16][k] * b[8][k]^T in bf16, tiles of 16 columns coming in two buffers by asynchronous copies.
// k is a multiple of 16.
cudaError_t RunTiledProduct(const uint16_t* a, const uint16_t* b, int k, float* d);

// Whether a kernel may begin on this device before the one ahead of it has ended.
bool KernelsCanOverlap();
// `kernels` kernels of kChainBlocks blocks, which do so if they `overlap`, on the numbers [kChainBlocks][64]:
// each reads what the one before wrote from `from` and writes to `to`, and the next does so the other way
// round. A number becomes three times the one at its mirror's place plus one, 1 + 50 (block % 5) times over.
constexpr unsigned kChainBlocks = 300;
cudaError_t RunChain(int kernels, bool overlap, uint32_t* from, uint32_t* to);

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_DEVICE_CODE_H_
