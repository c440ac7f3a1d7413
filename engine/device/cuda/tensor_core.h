// Matrix products of a warp, copies past it, wide stores and a power: the one place with inline PTX. Where
// nvcc is not, software with the same meaning takes its place
// (tests/fakes/cuda/include/cuda_fake/tensor_core.h).
//
// The per-lane layouts are those of the PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"
// and "Warp-level matrix load instruction: ldmatrix". With group = lane / 4 and pair = lane % 4:
//   a[0]: A[group    ][2 pair, 2 pair + 1]    a[2]: A[group    ][2 pair + 8, 2 pair + 9]
//   a[1]: A[group + 8][2 pair, 2 pair + 1]    a[3]: A[group + 8][2 pair + 8, 2 pair + 9]
//   b[0]: B[2 pair, 2 pair + 1][group]        b[1]: B[2 pair + 8, 2 pair + 9][group]
//   d[0], d[1]: D[group][2 pair, 2 pair + 1]  d[2], d[3]: D[group + 8][2 pair, 2 pair + 1]
// The first of two elements is the lower half of a register. All functions here are for whole warps, but for
// asynchronous copies and stores, which are each thread's own.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_TENSOR_CORE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_TENSOR_CORE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "engine/device/cuda/simt.h"

#ifndef __CUDACC__
#include <cuda_fake/tensor_core.h>
#else

namespace spillway::device::cuda {

// d += A * B. A is [16, 16], B [16, 8], D [16, 8]; T is __half or __nv_bfloat16. Products are exact and
// summed in f32.
template <typename T>
__device__ inline void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

__device__ inline uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Four matrices of 8 x 8 elements of 16 bits from shared memory. Lane l names row l % 8 of matrix l / 8: 16
// bytes, aligned to 16. A lane gets of matrix i the elements [group][2 pair, 2 pair + 1] in r[i].
__device__ inline void LoadMatrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// The same of the transposed matrices: the elements [2 pair][group] and [2 pair + 1][group].
__device__ inline void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// Two matrices, whose rows lanes 0-15 name. What the other lanes name is not read, but must be an address in
// shared memory.
__device__ inline void LoadMatrix2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
}

__device__ inline void LoadMatrix2Transposed(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
}

// Starts a copy of `valid_bytes` bytes of `global` to `shared`, filled up to 16 with zeros; both are aligned
// to
// 16. Until the group that it is in was awaited, what `shared` holds is undefined; other threads see it
// behind a barrier after that.
__device__ inline void AsyncCopy16(void* shared, const void* global, int valid_bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
               :
               : "r"(SharedAddress(shared)), "l"(__cvta_generic_to_global(global)), "r"(valid_bytes)
               : "memory");
}

// Makes a group of this thread's copies since the last one (perhaps of none).
__device__ inline void AsyncCommit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most the kNewestLeft newest groups of this thread are under way.
template <int kNewestLeft>
__device__ inline void AsyncWait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kNewestLeft) : "memory");
}

// 2^x as the hardware has it: within 2 of the last places, and 0 where exp2f is less than the least normal
// number, which spares exp2f's three instructions around it.
__device__ inline float Exp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
  return power;
}

// Writes 16 bytes of global memory, aligned to 16, by one instruction.
__device__ inline void StoreSixteen(void* global, const uint32_t (&words)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n"
               :
               : "l"(__cvta_generic_to_global(global)), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                 "r"(words[3])
               : "memory");
}

}  // namespace spillway::device::cuda

#endif  // __CUDACC__

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_TENSOR_CORE_H_
