// Kernels for T = f32 on AVX2 with FMA. Compiled with that instruction set's flags.
#include "engine/device/cpu/kernels.h"

// Each of these is written in the terms of those before it.
// clang-format off
#include "engine/device/cpu/simd_avx2.h"
#include "engine/device/cpu/element_f32.h"
#include "engine/device/cpu/kernel_math.h"
#include "engine/device/cpu/kernel_elementwise.h"
#include "engine/device/cpu/kernel_product.h"
#include "engine/device/cpu/kernel_attention.h"
#include "engine/device/cpu/kernel_sampling.h"
#include "engine/device/cpu/kernel_table.h"
// clang-format on

namespace spillway::device {

const Kernels kAvx2KernelsF32 = kTable;

}  // namespace spillway::device
