// The device side of CUDA C++ as functions and macros of the host: qualifiers, built-in variables, barriers,
// warp operations, atomics, arithmetic. What is not here, our device code does not use.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_DEVICE_CODE_H_
#define SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_DEVICE_CODE_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "cuda_fake/simt.h"
#include "cuda_fake/vector_types.h"

#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// Of the running thread; the emulator sets them at every switch.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

// ---------------------------------------------------------------------------------------------- the block

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  ::spillway::fakes::cuda::Barrier(::spillway::fakes::cuda::BarrierKind::kPlain, 0, where);
}
inline int __syncthreads_or(int p, std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::Barrier(::spillway::fakes::cuda::BarrierKind::kOr, p, where);
}
inline int __syncthreads_and(int p, std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::Barrier(::spillway::fakes::cuda::BarrierKind::kAnd, p, where);
}
inline int __syncthreads_count(int p, std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::Barrier(::spillway::fakes::cuda::BarrierKind::kCount, p, where);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { ::spillway::fakes::cuda::GiveWay(); }
[[noreturn]] inline void __trap() {
  ::spillway::fakes::cuda::SetFault("__trap()");
  ::spillway::fakes::cuda::EndKernel();
}

// ---------------------------------------------------------------------------------------------- the grid

inline void cudaGridDependencySynchronize() { ::spillway::fakes::cuda::AwaitEarlierKernels(); }
// The next kernel may begin in any case: without this, CUDA lets it when the blocks of this one have ended,
// which is before what they wrote is seen.
inline void cudaTriggerProgrammaticLaunchCompletion() {}

// ---------------------------------------------------------------------------------------------- the warp

namespace spillway::fakes::cuda {

enum class ShuffleKind : uint8_t { kIndex, kXor, kUp, kDown };
// Every lane's value goes where the kind says (PTX, shfl.sync); a lane whose source lies outside of its
// segment keeps its own. It is a fault to read a lane that the mask does not name.
uint64_t Shuffle(ShuffleKind kind, uint32_t mask, uint64_t value, int operand, int width,
                 const std::source_location& where);

// Of the predicates of the lanes in `mask`, a bit each.
uint32_t Ballot(const char* name, uint32_t mask, bool predicate, const std::source_location& where);
// The lanes in `mask` whose value is the caller's.
uint32_t Match(uint32_t mask, uint64_t value, const std::source_location& where);
enum class ReduceKind : uint8_t { kAdd, kMin, kMax, kAnd, kOr, kXor };
uint32_t Reduce(ReduceKind kind, bool is_signed, uint32_t mask, uint32_t value,
                const std::source_location& where);

template <typename T>
T ShuffleAs(ShuffleKind kind, uint32_t mask, T value, int operand, int width,
            const std::source_location& where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Shuffle(kind, mask, bits, operand, width, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace spillway::fakes::cuda

inline void __syncwarp(unsigned mask = 0xffffffff,
                       std::source_location where = std::source_location::current()) {
  ::spillway::fakes::cuda::Ballot("__syncwarp", mask, false, where);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::ShuffleAs(::spillway::fakes::cuda::ShuffleKind::kIndex, mask, value, source,
                                            width, where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::ShuffleAs(::spillway::fakes::cuda::ShuffleKind::kXor, mask, value,
                                            lane_mask, width, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::ShuffleAs(::spillway::fakes::cuda::ShuffleKind::kUp, mask, value,
                                            static_cast<int>(delta), width, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::ShuffleAs(::spillway::fakes::cuda::ShuffleKind::kDown, mask, value,
                                            static_cast<int>(delta), width, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::Ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::Ballot("__any_sync", mask, predicate != 0, where) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location where = std::source_location::current()) {
  return ::spillway::fakes::cuda::Ballot("__all_sync", mask, predicate != 0, where) == mask ? 1 : 0;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value,
                          std::source_location where = std::source_location::current()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return ::spillway::fakes::cuda::Match(mask, bits, where);
}
#define SPILLWAY_FAKE_REDUCE(NAME, KIND, TYPE)                                                          \
  inline TYPE NAME(unsigned mask, TYPE value,                                                           \
                   std::source_location where = std::source_location::current()) {                      \
    return static_cast<TYPE>(::spillway::fakes::cuda::Reduce(::spillway::fakes::cuda::ReduceKind::KIND, \
                                                             std::is_signed_v<TYPE>, mask,              \
                                                             static_cast<uint32_t>(value), where));     \
  }
SPILLWAY_FAKE_REDUCE(__reduce_add_sync, kAdd, int)
SPILLWAY_FAKE_REDUCE(__reduce_add_sync, kAdd, unsigned)
SPILLWAY_FAKE_REDUCE(__reduce_min_sync, kMin, int)
SPILLWAY_FAKE_REDUCE(__reduce_min_sync, kMin, unsigned)
SPILLWAY_FAKE_REDUCE(__reduce_max_sync, kMax, int)
SPILLWAY_FAKE_REDUCE(__reduce_max_sync, kMax, unsigned)
SPILLWAY_FAKE_REDUCE(__reduce_and_sync, kAnd, unsigned)
SPILLWAY_FAKE_REDUCE(__reduce_or_sync, kOr, unsigned)
SPILLWAY_FAKE_REDUCE(__reduce_xor_sync, kXor, unsigned)
#undef SPILLWAY_FAKE_REDUCE

// ---------------------------------------------------------------------------------------------- atomics
// Each is a point where the thread may give way, before it. ThreadSanitizer takes them for ordering memory,
// which a device's do only together with a fence.

namespace spillway::fakes::cuda {

// Replaces *address by update(*address) and returns what it was.
template <typename T, typename Update>
T Atomically(T* address, Update update) {
  GiveWay();
  T old;
  T now;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    now = update(old);
  } while (!__atomic_compare_exchange(address, &old, &now, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
  return old;
}

template <typename T>
concept AtomicInteger = std::is_same_v<T, int> || std::is_same_v<T, unsigned> ||
    std::is_same_v<T, unsigned long long>;  // NOLINT: CUDA's types
template <typename T>
concept AtomicAddend = AtomicInteger<T> || std::is_same_v<T, float> || std::is_same_v<T, double>;

}  // namespace spillway::fakes::cuda

template <::spillway::fakes::cuda::AtomicAddend T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return ::spillway::fakes::cuda::Atomically(address, [value](T old) { return static_cast<T>(old + value); });
}
template <::spillway::fakes::cuda::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return ::spillway::fakes::cuda::Atomically(address, [value](T old) { return old > value ? old : value; });
}
template <::spillway::fakes::cuda::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return ::spillway::fakes::cuda::Atomically(address, [value](T old) { return old < value ? old : value; });
}
template <::spillway::fakes::cuda::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return ::spillway::fakes::cuda::Atomically(address, [value](T old) { return old | value; });
}
template <::spillway::fakes::cuda::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return ::spillway::fakes::cuda::Atomically(address, [value](T old) { return old & value; });
}
template <::spillway::fakes::cuda::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return ::spillway::fakes::cuda::Atomically(address, [value](T) { return value; });
}
template <::spillway::fakes::cuda::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return ::spillway::fakes::cuda::Atomically(address, [=](T old) { return old == compare ? value : old; });
}

// ---------------------------------------------------------------------------------------------- memory

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcg(T* address, std::type_identity_t<T> value) {
  *address = value;
}
template <typename T>
void __stcs(T* address, std::type_identity_t<T> value) {
  *address = value;
}

// ---------------------------------------------------------------------------------------------- arithmetic
// glibc declares names like __expf without defining them, so these are macros. A device's fast forms are less
// exact than these.

#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __sinf sinf
#define __cosf cosf
#define __powf powf

inline float rsqrtf(float x) { return 1.0F / std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0F / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0F / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0F) : 0.0F; }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }  // NOLINT: CUDA's type
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {  // NOLINT: CUDA's type
  return std::countl_zero(static_cast<uint64_t>(x));
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>((uint64_t{x} * uint64_t{y}) >> 32);
}
inline int __mulhi(int x, int y) { return static_cast<int>((int64_t{x} * int64_t{y}) >> 32); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{high} << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
// Bytes of y:x (x is the low word) by four selectors of four bits; the sign form (bit 3) is not emulated.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(bytes >> ((selector >> (4 * i) & 7) * 8) & 0xff) << (8 * i);
  }
  return result;
}
inline int __dp4a(int x, int y, int sum) {
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<int8_t>(x >> (8 * i)) * static_cast<int8_t>(y >> (8 * i));
  }
  return sum;
}

#define SPILLWAY_FAKE_MIN_MAX(T)                      \
  constexpr T min(T x, T y) { return x < y ? x : y; } \
  constexpr T max(T x, T y) { return x < y ? y : x; }
SPILLWAY_FAKE_MIN_MAX(int)
SPILLWAY_FAKE_MIN_MAX(unsigned)
SPILLWAY_FAKE_MIN_MAX(long)                // NOLINT: CUDA's types
SPILLWAY_FAKE_MIN_MAX(unsigned long)       // NOLINT
SPILLWAY_FAKE_MIN_MAX(long long)           // NOLINT
SPILLWAY_FAKE_MIN_MAX(unsigned long long)  // NOLINT
#undef SPILLWAY_FAKE_MIN_MAX
inline float min(float x, float y) { return std::fmin(x, y); }
inline float max(float x, float y) { return std::fmax(x, y); }
inline double min(double x, double y) { return std::fmin(x, y); }
inline double max(double x, double y) { return std::fmax(x, y); }

#endif  // SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_DEVICE_CODE_H_
