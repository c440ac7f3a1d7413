#include "engine/device/arithmetic/rotation.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 256;

struct RopeShared {
  Rotation pairs[kHeadElementsMax / 2];
};

__device__ inline AppendRow TargetOf(const RopeAppendArgs& args, int64_t row) {
  if (args.append.address != 0) return At<const AppendRow>(args.append)[row];
  const int32_t block = static_cast<int32_t>(row / args.block_tokens);
  const int32_t offset = static_cast<int32_t>(row % args.block_tokens);
  return {2 * block, 2 * block + 1, -1, offset, At<const int32_t>(args.block_positions)[block] + offset};
}

// Work on a head is cut into parts of eight elements. With kHalf a part that rotates holds eight elements of
// each half; what is not rotated follows.
__device__ inline int RotatingParts(const RopeAppendArgs& args) {
  if (args.style == RopeStyle::kNone) return 0;
  const int32_t span = args.style == RopeStyle::kHalf ? args.rope_dims / 2 : args.rope_dims;
  return static_cast<int>(CeilDivide(span, kVectorElements));
}
__device__ inline int PartsOfHead(const RopeAppendArgs& args) {
  const int32_t plain = args.style == RopeStyle::kNone ? args.d_head : args.d_head - args.rope_dims;
  return RotatingParts(args) + static_cast<int>(CeilDivide(plain, kVectorElements));
}

// Rotates one part of a head from `in` to `out`, which may be the same.
template <typename T>
__device__ inline void RotatePart(const RopeAppendArgs& args, const Rotation* pairs, int part, const T* in,
                                  T* out, bool aligned) {
  const int rotating = RotatingParts(args);
  if (part >= rotating) {
    const int64_t from =
        (args.style == RopeStyle::kNone ? 0 : args.rope_dims) + int64_t{part - rotating} * kVectorElements;
    if (in != out) CopyEight(out + from, in + from, args.d_head - from, aligned);
    return;
  }
  const int64_t from = int64_t{part} * kVectorElements;
  float x[kVectorElements];
  if (args.style == RopeStyle::kInterleaved) {
    const int64_t left = args.rope_dims - from;
    LoadEight(in + from, left, aligned, x);
#pragma unroll
    for (int i = 0; i < kVectorElements; i += 2) {
      if (i >= left) break;
      const Rotation at = pairs[(from + i) / 2];
      const float even = x[i];
      const float odd = x[i + 1];
      x[i] = fmaf(even, at.cosine, -odd * at.sine);
      x[i + 1] = fmaf(odd, at.cosine, even * at.sine);
    }
    StoreEight(out + from, left, aligned, x);
    return;
  }
  const int64_t half = args.rope_dims / 2;
  const int64_t left = half - from;
  float y[kVectorElements];
  LoadEight(in + from, left, aligned, x);
  LoadEight(in + half + from, left, aligned, y);
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) {
    if (i >= left) break;
    const Rotation at = pairs[from + i];
    const float first = x[i];
    const float second = y[i];
    x[i] = first * at.cosine - second * at.sine;
    y[i] = fmaf(first, at.sine, second * at.cosine);
  }
  StoreEight(out + from, left, aligned, x);
  StoreEight(out + half + from, left, aligned, y);
}

// One block a row: its angles are worked out once, in double, and then serve every head.
template <typename T>
__global__ void RopeAppendKernel(RopeAppendArgs args, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  RopeShared& shared = SharedAs<RopeShared>();
  const int64_t row = blockIdx.x;
  const AppendRow target = TargetOf(args, row);
  const int thread = static_cast<int>(threadIdx.x);
  if (args.style != RopeStyle::kNone) {
    for (int i = thread; i < args.rope_dims / 2; i += kThreads) {
      shared.pairs[i] =
          RotationAt(static_cast<float>(target.position), At<const float>(args.inverse_frequency)[i]);
    }
  }
  __syncthreads();

  const int64_t width = int64_t{args.n_heads + 2 * args.n_kv_heads} * args.d_head;
  T* q = At<T>(args.qkv) + row * width;
  const T* k = q + int64_t{args.n_heads} * args.d_head;
  const T* v = k + int64_t{args.n_kv_heads} * args.d_head;
  const auto plane = [&](int32_t slot) {
    return reinterpret_cast<T*>(args.arena.base.address +
                                static_cast<uint64_t>(slot) * static_cast<uint64_t>(args.arena.slot_bytes));
  };
  T* k_plane = plane(target.k_slot);
  T* v_plane = plane(target.v_slot);

  const int head_parts = PartsOfHead(args);
  const int rotated_parts = (args.n_heads + args.n_kv_heads) * head_parts;
  for (int part = thread; part < rotated_parts; part += kThreads) {
    const int head = part / head_parts;
    const int kv_head = head - args.n_heads;
    if (kv_head < 0) {
      T* at = q + int64_t{head} * args.d_head;
      RotatePart(args, shared.pairs, part % head_parts, at, at, aligned);
    } else {
      RotatePart(args, shared.pairs, part % head_parts, k + int64_t{kv_head} * args.d_head,
                 k_plane + (int64_t{kv_head} * args.block_tokens + target.offset_tokens) * args.d_head,
                 aligned);
    }
  }
  const int value_parts = static_cast<int>(CeilDivide(args.d_head, kVectorElements));
  for (int part = thread; part < args.n_kv_heads * value_parts; part += kThreads) {
    const int64_t head = part / value_parts;
    const int64_t from = int64_t{part % value_parts} * kVectorElements;
    CopyEight(v_plane + (head * args.block_tokens + target.offset_tokens) * args.d_head + from,
              v + head * args.d_head + from, args.d_head - from, aligned);
  }
  if (args.x.address == 0 || target.x_slot < 0) return;
  const T* x = At<const T>(args.x) + row * args.d;
  T* x_out = plane(target.x_slot) + int64_t{target.offset_tokens} * args.d;
  const bool x_aligned = aligned && args.d * sizeof(T) % kVectorBytes == 0;
  for (int64_t from = int64_t{threadIdx.x} * kVectorElements; from < args.d;
       from += int64_t{kThreads} * kVectorElements) {
    CopyEight(x_out + from, x + from, args.d - from, x_aligned);
  }
}

}  // namespace

cudaError_t LaunchRopeAppend(DType type, const RopeAppendArgs& args, KernelStream stream) {
  RopeAppendArgs in = args;
  if (in.rope_dims == 0) in.style = RopeStyle::kNone;
  const int64_t half_bytes = in.style == RopeStyle::kHalf ? in.rope_dims / 2 * SizeOf(type) : 0;
  const bool aligned = AllAligned(in.qkv.address, in.x.address, in.arena.base.address, in.arena.slot_bytes,
                                  in.d_head * SizeOf(type), in.rope_dims * SizeOf(type), half_bytes);
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(in.rows));
  shape.block = dim3(kThreads);
  shape.shared_bytes = sizeof(RopeShared);
  return WithElement(type, [&](auto tag) {
    return Launch(RopeAppendKernel<typename decltype(tag)::Type>, shape, stream, in, aligned);
  });
}

}  // namespace spillway::device::cuda
