// What the two kinds of attention kernels, on ordinary and on tensor cores, have in common at launch.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_KERNELS_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_KERNELS_H_

#include <algorithm>

#include "engine/device/cuda/attention_result.h"
#include "engine/device/cuda/attention_task.h"
#include "engine/device/cuda/kernel_stream.h"

namespace spillway::device::cuda {

// Blocks: [narrow tasks, KV heads, so many].
inline dim3 NarrowGrid(const PartialAttentionArgs& args, int each) {
  const int64_t tasks = int64_t{args.n_sequences} * NarrowTiles(args.n_heads / args.n_kv_heads);
  return dim3(static_cast<unsigned>(tasks), static_cast<unsigned>(args.n_kv_heads),
              static_cast<unsigned>(each));
}

// Blocks: [wide tasks of up to so many queries at most, KV heads].
inline dim3 WideGrid(const PartialAttentionArgs& args, int queries) {
  const int64_t group = args.n_heads / args.n_kv_heads;
  // A wide sequence has two rows at least; each may end in a tile that is not full.
  const int64_t tasks =
      int64_t{args.rows} * group / queries + std::min<int64_t>(args.n_sequences, args.rows / 2);
  return dim3(static_cast<unsigned>(tasks), static_cast<unsigned>(args.n_kv_heads));
}

// On tensor cores, for some types and head sizes. REQUIRES: HasTensorAttention, and all that AllAligned is
// asked of in attention.cu.
bool HasTensorAttention(DType type, int32_t d_head);
cudaError_t LaunchNarrowTensor(DType type, const PartialAttentionArgs& args, const SplitResults& results,
                               KernelStream stream);
cudaError_t LaunchWideTensor(DType type, const PartialAttentionArgs& args, KernelStream stream);

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_ATTENTION_KERNELS_H_
