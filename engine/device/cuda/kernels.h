// The launchers of the device's kernels: plain arguments and a stream, asynchronous, the launch's error as
// result. What the operations do, shapes and formulas, is in engine/device/ops.h; nothing here checks it.
//
// Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_KERNELS_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_KERNELS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/device/cuda/kernel_stream.h"
#include "engine/device/cuda/packed_matrix.h"
#include "engine/device/ops.h"
#include "engine/device/tensor_encoding.h"
#include "engine/device/types.h"

namespace spillway::device::cuda {

// Whether this build has kernels for the current GPU: cudaErrorNoKernelImageForDevice where it has not. If
// so, the compute capability that they were compiled for, 10 major + minor, which may be an earlier one.
cudaError_t ProbeKernels(int* capability);

cudaError_t LaunchEmbed(DType type, const EmbedArgs& args, KernelStream stream);
// The same where rows of args.table stay packed: `table`, of one part.
cudaError_t LaunchEmbedPacked(DType type, const PackedRows& table, const EmbedArgs& args,
                              KernelStream stream);
cudaError_t LaunchAddNorm(DType type, const AddNormArgs& args, KernelStream stream);
cudaError_t LaunchRopeAppend(DType type, const RopeAppendArgs& args, KernelStream stream);

// Working memory of one call of attention, free again when its kernels have run.
struct AttentionScratch {
  float* memory = nullptr;  // aligned to 16 bytes
  int64_t size_bytes = 0;
  int32_t processors = 1;  // multiprocessors of the device: how finely work is split
};
cudaError_t LaunchPartialAttention(DType type, const PartialAttentionArgs& args,
                                   const AttentionScratch& scratch, KernelStream stream);
cudaError_t LaunchMergeAttention(DType type, const MergeAttentionArgs& args, KernelStream stream);
cudaError_t LaunchGatedActivation(DType type, const GatedActivationArgs& args, KernelStream stream);

// out[r, i] = activation(sums[r, i] + bias[i])
struct EpilogueArgs {
  int64_t rows = 0;
  int64_t n = 0;
  const float* sums = nullptr;  // f32 [rows, sums_stride], of which n columns
  int64_t sums_stride = 0;
  const float* bias = nullptr;  // f32 [n] or null
  Activation activation = Activation::kNone;
  void* out = nullptr;     // out_type [rows, out_stride], of which n columns
  int64_t out_stride = 0;  // elements
};
cudaError_t LaunchEpilogue(DType out_type, const EpilogueArgs& args, KernelStream stream);

// Expands rows to T [n, k], aligned to 16 bytes.
cudaError_t LaunchExpand(DType type, const PackedRows& rows, void* out, KernelStream stream);

// As GemmArgs, for few rows.
struct PackedProductArgs {
  PackedRows weight;
  int32_t rows = 0;
  const void* in = nullptr;     // T [rows, k]
  void* out = nullptr;          // f32 or T [rows, n]
  const float* bias = nullptr;  // f32 [n] or null
  Activation activation = Activation::kNone;
  bool out_is_f32 = true;
  bool accumulate = false;
  // Set by the launcher.
  bool aligned = false;
  DType type = DType::kF32;  // T
};
constexpr int32_t kPackedProductRowsMax = 8;
cudaError_t LaunchPackedProduct(DType type, const PackedProductArgs& args, KernelStream stream);

// The same on tensor cores, for up to kPackedTensorRowsMax rows, where HasPackedTensorProduct: bf16, every
// part packed, and k a multiple of 256. Beyond, expanding the weights takes no more time than reading them,
// for 32 rows at a time, from the L2 cache.
constexpr int32_t kPackedTensorRowsMax = 128;
bool HasPackedTensorProduct(DType type, const PackedProductArgs& args);
// `processors`: the device's multiprocessors.
cudaError_t LaunchPackedTensorProduct(const PackedProductArgs& args, int32_t processors, KernelStream stream);

// One row to sample. The pointers of `row` are those of memory that the device reads.
struct SampleTask {
  SampleRow row;
  int32_t index = 0;  // of its logits and its result
  // Where penalties or masks apply: the logits may be changed in place, or (where logprobs of the unmodified
  // ones are asked for) in a copy, `changed` f32 [vocab].
  bool changes_in_place = false;
  float* changed = nullptr;
  uint32_t* counts = nullptr;  // [vocab], zeros; where penalties apply
};
// At most so many tokens: sums of weights are exact in 64 bits.
constexpr int32_t kSampledVocabularyMax = 1 << 21;
struct SampleLaunch {
  int32_t n_tasks = 0;
  int32_t vocab = 0;
  const float* logits = nullptr;      // f32 [*, vocab]
  const SampleTask* tasks = nullptr;  // [n_tasks]
  SampleResult* results = nullptr;    // by a task's index
};
cudaError_t LaunchSample(const SampleLaunch& launch, KernelStream stream);

// Copies from memory that the device can address, host memory that is mapped among it: small copies that
// shall not queue behind large ones.
cudaError_t LaunchCopy(void* destination, const void* source, int64_t size_bytes, KernelStream stream);

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_KERNELS_H_
