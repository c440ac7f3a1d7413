// Kernels that begin before the one ahead of them has ended: that right ones come out right for every seed,
// and that what is done before the wait, or no wait at all, is seen.
#include <cublasLt.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/device/cuda/simt.h"
#include "tests/fakes/cuda/launch_for_test.h"

namespace spillway::fakes::cuda {
namespace {

using device::cuda::KernelStream;
using device::cuda::Launch;
using device::cuda::LaunchShape;
using device::cuda::LetLaterKernelsBegin;
using device::cuda::WaitForEarlierKernels;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

constexpr uint64_t kSeeds = 20;
constexpr unsigned kBlocks = 3;
constexpr unsigned kThreads = 64;
constexpr size_t kNumbers = kBlocks * kThreads;
constexpr int kKernels = 8;

enum class Mistake {
  kNone,
  kNoWait,
  kReadsBefore,
  kWritesBefore,
  kSomeReturnBefore,
  kBarrierBefore,
  kStuckBefore
};

// out = in + 1, of which each thread reads another's; in becomes `spoil`, if that is not null, when all is
// read.
template <Mistake kMistake>
__global__ void Increment(const int* in, int* out, int* spoil) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned other = gridDim.x * blockDim.x - 1 - i;
  int value = 0;
  if constexpr (kMistake == Mistake::kReadsBefore) value = in[other];
  if constexpr (kMistake == Mistake::kWritesBefore) spoil[i] = -1;
  if constexpr (kMistake == Mistake::kSomeReturnBefore) {
    if (threadIdx.x >= 40) return;
  }
  if constexpr (kMistake == Mistake::kBarrierBefore) __syncthreads();
  if constexpr (kMistake == Mistake::kStuckBefore) {
    if (threadIdx.x == 0) __syncwarp(3);
    __syncthreads();
  }
  if constexpr (kMistake != Mistake::kNoWait) WaitForEarlierKernels();
  LetLaterKernelsBegin();
  if constexpr (kMistake != Mistake::kReadsBefore) value = in[other];
  out[i] = value + 1;
}

LaunchShape Shape() { return {dim3(kBlocks), dim3(kThreads)}; }

cudaStream_t NewStream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return stream;
}

void StartMachine(uint64_t seed, bool lazy = false) {
  MachineOptions options;
  options.seed = seed;
  options.lazy = lazy;
  ResetMachine(options);
}

// Kernels that each count up what the one before wrote; "" if they are right, else what is wrong.
template <Mistake kMistake>
std::string Chain(bool overlaps, void (*between)(cudaStream_t) = nullptr) {
  const cudaStream_t stream = NewStream();
  std::vector<int*> numbers;
  for (int k = 0; k <= kKernels; ++k) numbers.push_back(OnDevice(std::vector<int>(kNumbers, 1000)));
  for (int k = 0; k < kKernels; ++k) {
    if (between != nullptr) between(stream);
    // What the kernel before read.
    int* const read = numbers[static_cast<size_t>(k == 0 ? kKernels : k - 1)];
    if (Launch(Increment<kMistake>, Shape(), KernelStream(stream, overlaps), numbers[static_cast<size_t>(k)],
               numbers[static_cast<size_t>(k + 1)], read) != cudaSuccess) {
      return FirstFault();  // of an earlier one
    }
  }
  if (cudaStreamSynchronize(stream) != cudaSuccess) return FirstFault();
  for (int k = 1; k <= kKernels; ++k) {
    const std::vector<int> got = FromDevice(numbers[static_cast<size_t>(k)], kNumbers);
    // The last one's is nobody's to spoil.
    if (kMistake == Mistake::kWritesBefore && k < kKernels - 1) continue;
    if (got != std::vector<int>(kNumbers, 1000 + k)) return "wrong numbers";
  }
  return "";
}

template <Mistake kMistake>
int SeedsThatAreWrong(bool overlaps, void (*between)(cudaStream_t) = nullptr) {
  int n = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    StartMachine(seed);
    n += Chain<kMistake>(overlaps, between).empty() ? 0 : 1;
  }
  return n;
}

TEST(KernelOrder, KernelsThatWaitFirstAreRightForEverySeed) {
  int64_t begun_early = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    for (const bool lazy : {false, true}) {
      StartMachine(seed, lazy);
      EXPECT_EQ(Chain<Mistake::kNone>(true), "");
      EXPECT_EQ(Chain<Mistake::kBarrierBefore>(true), "");
      EXPECT_EQ(Counts().kernels, 2 * kKernels);
      begun_early += Counts().kernels_begun_early;
    }
  }
  EXPECT_GT(begun_early, static_cast<int64_t>(kSeeds) * kKernels / 2);
}

TEST(KernelOrder, AReadBeforeTheWaitIsSeen) {
#ifdef __SANITIZE_THREAD__
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    StartMachine(seed, /*lazy=*/true);
    SPILLWAY_EXPECT_RACE([] { (void)Chain<Mistake::kReadsBefore>(true); });
  }
#else
  EXPECT_GE(SeedsThatAreWrong<Mistake::kReadsBefore>(true), static_cast<int>(kSeeds) / 2);
  StartMachine(1, /*lazy=*/true);
  EXPECT_EQ(Chain<Mistake::kReadsBefore>(true), "wrong numbers");
#endif
}

TEST(KernelOrder, AWriteBeforeTheWaitIsSeen) {
#ifdef __SANITIZE_THREAD__
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    StartMachine(seed, /*lazy=*/true);
    SPILLWAY_EXPECT_RACE([] { (void)Chain<Mistake::kWritesBefore>(true); });
  }
#else
  EXPECT_GE(SeedsThatAreWrong<Mistake::kWritesBefore>(true), static_cast<int>(kSeeds) / 2);
#endif
}

TEST(KernelOrder, AKernelWithoutTheWaitIsNamedForEverySeed) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    StartMachine(seed);
    EXPECT_THAT(Chain<Mistake::kNoWait>(true),
                AllOf(HasSubstr("ended without having waited"), HasSubstr("Increment<")));
  }
}

TEST(KernelOrder, ThreadsThatReturnBeforeTheyWaitAreNamedForEverySeed) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    StartMachine(seed);
    const std::string fault = Chain<Mistake::kSomeReturnBefore>(true);
    EXPECT_THAT(fault, AllOf(HasSubstr("ended without having waited"), HasSubstr("Increment<")));
    const size_t at = fault.find("thread ");
    ASSERT_NE(at, std::string::npos);
    EXPECT_GE(std::stoi(fault.substr(at + 7)), 40) << fault;
  }
}

TEST(KernelOrder, ABlockThatIsStuckBeforeItWaitsIsNamed) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    StartMachine(seed, /*lazy=*/true);
    EXPECT_THAT(Chain<Mistake::kStuckBefore>(true),
                AllOf(HasSubstr("no thread can go on"), HasSubstr("Increment<")));
  }
}

TEST(KernelOrder, KernelsThatDoNotOverlapNeedNoWait) {
  EXPECT_EQ(SeedsThatAreWrong<Mistake::kNone>(false), 0);
  EXPECT_EQ(SeedsThatAreWrong<Mistake::kNoWait>(false), 0);
  EXPECT_EQ(SeedsThatAreWrong<Mistake::kReadsBefore>(false), 0);
  EXPECT_EQ(Counts().kernels_begun_early, 0);
}

// Of what is no kernel everything has been done when the next kernel begins.
TEST(KernelOrder, CopiesFillsAndWaitsAreNotOvertaken) {
  const auto wait = [](cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreate(&event), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(stream, event), cudaSuccess);
  };
  const auto fill = [](cudaStream_t stream) {
    int* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, 64), cudaSuccess);
    EXPECT_EQ(cudaMemsetAsync(memory, 0, 64, stream), cudaSuccess);
  };
  const auto copy = [](cudaStream_t stream) {
    int* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, 64), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(memory + 8, memory, 32, cudaMemcpyDeviceToDevice, stream), cudaSuccess);
  };
  for (void (*between)(cudaStream_t) : {+wait, +fill, +copy}) {
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      StartMachine(seed, /*lazy=*/seed % 2 == 0);
      EXPECT_EQ(Chain<Mistake::kReadsBefore>(true, between), "");
      EXPECT_EQ(Counts().kernels_begun_early, 0);
    }
  }
}

TEST(KernelOrder, AnEventThatIsOnlyRecordedEndsNoOverlap) {
  const auto record = [](cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreate(&event), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event, stream), cudaSuccess);
  };
  int64_t begun_early = 0;
  int wrong = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    StartMachine(seed, /*lazy=*/true);
    EXPECT_EQ(Chain<Mistake::kNone>(true, record), "");
    begun_early += Counts().kernels_begun_early;
    StartMachine(seed, /*lazy=*/true);
    if (!Chain<Mistake::kReadsBefore>(true, record).empty()) ++wrong;
  }
  EXPECT_GT(begun_early, 0);
  EXPECT_GT(wrong, 0);
}

// [2 kThreads, 1] = [2 kThreads, 1] * [1, 1]: the product's result is its first matrix times two.
void Double(const float* in, float* out, cudaStream_t stream) {
  cublasLtHandle_t handle = nullptr;
  ASSERT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulDesc_t product = nullptr;
  ASSERT_EQ(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  cublasLtMatrixLayout_t column = nullptr;
  cublasLtMatrixLayout_t one = nullptr;
  ASSERT_EQ(cublasLtMatrixLayoutCreate(&column, CUDA_R_32F, kNumbers, 1, kNumbers), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasLtMatrixLayoutCreate(&one, CUDA_R_32F, 1, 1, 1), CUBLAS_STATUS_SUCCESS);
  const float alpha = 2;
  const float beta = 0;
  const float* unit = OnDevice(std::vector<float>{1});
  EXPECT_EQ(cublasLtMatmul(handle, product, &alpha, in, column, unit, one, &beta, out, column, out, column,
                           nullptr, nullptr, 0, stream),
            CUBLAS_STATUS_SUCCESS);
  cublasLtMatrixLayoutDestroy(column);
  cublasLtMatrixLayoutDestroy(one);
  cublasLtMatmulDescDestroy(product);
  cublasLtDestroy(handle);
}

template <bool kWaitsFirst>
__global__ void CopyFloats(const float* in, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  float value = 0;
  if constexpr (!kWaitsFirst) value = in[i];
  WaitForEarlierKernels();
  if constexpr (kWaitsFirst) value = in[i];
  out[i] = value;
}

template <bool kWaitsFirst>
std::vector<float> CopyOfAProduct() {
  const cudaStream_t stream = NewStream();
  const float* in = OnDevice(std::vector<float>(kNumbers, 3));
  float* doubled = OnDevice(std::vector<float>(kNumbers, 1));
  float* out = OnDevice(std::vector<float>(kNumbers, 0));
  Double(in, doubled, stream);
  EXPECT_EQ(Launch(CopyFloats<kWaitsFirst>, Shape(), KernelStream(stream, true), doubled, out), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  return FromDevice(out, kNumbers);
}

#ifndef __SANITIZE_THREAD__  // of a library's kernels it sees what they access, not when a thread waits for
                             // them
TEST(KernelOrder, KernelsOfALibraryAreOvertakenToo) {
  int n_wrong = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    StartMachine(seed, /*lazy=*/true);
    EXPECT_THAT(CopyOfAProduct<true>(), Each(6.0F));
    n_wrong += CopyOfAProduct<false>() != std::vector<float>(kNumbers, 6) ? 1 : 0;
  }
  EXPECT_GE(n_wrong, static_cast<int>(kSeeds) / 4);
}
#endif

TEST(KernelOrder, DevicesThatCannotOverlapRefuseTheLaunch) {
  MachineOptions options;
  options.major = 8;
  options.minor = 9;
  ResetMachine(options);
  int* in = OnDevice(std::vector<int>(kNumbers, 0));
  int* out = OnDevice(std::vector<int>(kNumbers, 0));
  EXPECT_EQ(Launch(Increment<Mistake::kNone>, Shape(), KernelStream(nullptr, true), in, out, nullptr),
            cudaErrorNotSupported);
  EXPECT_EQ(Launch(Increment<Mistake::kNone>, Shape(), KernelStream(nullptr), in, out, nullptr), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

// The driver translates what was compiled for an earlier device, and that has no wait in it.
TEST(KernelOrder, CodeForDevicesThatCannotOverlapDoesNotWaitOnOneThatCan) {
  MachineOptions options;
  options.kernels_compiled_for = 80;
  ResetMachine(options);
  cudaFuncAttributes attributes;
  ASSERT_EQ(cudaFuncGetAttributes(&attributes, Increment<Mistake::kNone>), cudaSuccess);
  EXPECT_EQ(attributes.ptxVersion, 80);
  EXPECT_EQ(Chain<Mistake::kNone>(false), "");
  EXPECT_THAT(Chain<Mistake::kNone>(true), HasSubstr("ended without having waited"));
}

TEST(KernelOrder, ABlockThatStandsStillEndsWithItsMachine) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    StartMachine(seed, /*lazy=*/true);
    FailCall("kernel", 2, cudaErrorLaunchFailure);  // while the next may have begun
    EXPECT_THAT(Chain<Mistake::kNone>(true), HasSubstr("told to fail"));
    StartMachine(seed);
    EXPECT_EQ(Chain<Mistake::kNone>(true), "");
  }
}

}  // namespace
}  // namespace spillway::fakes::cuda
