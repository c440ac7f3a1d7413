// Marks the small functions that the CPU's kernels and the GPU's share. They include nothing but <cstdint>,
// and every file gets a copy of its own: the CPU's kernel files are compiled with instruction sets that
// nothing outside them may inherit (cpu/kernels.h).
#ifndef SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PORTABLE_H_
#define SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PORTABLE_H_

#ifdef __CUDACC__
#define SPILLWAY_PORTABLE [[maybe_unused]] static __host__ __device__ __forceinline__
#else
#define SPILLWAY_PORTABLE [[maybe_unused, gnu::always_inline]] static inline
#endif

#endif  // SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PORTABLE_H_
