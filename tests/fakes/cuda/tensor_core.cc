// mma, ldmatrix and cp.async in software, by the per-lane tables of the PTX ISA.
#include "cuda_fake/tensor_core.h"

#include <cstring>
#include <string>

#include "cuda_fake/simt.h"
#include "tests/fakes/cuda/fiber.h"

namespace spillway::fakes::cuda {
namespace {

constexpr uint32_t kWholeWarp = 0xffffffff;
constexpr int kM = 16;
constexpr int kN = 8;
constexpr int kK = 16;
constexpr int kRowBytes = 16;  // of an 8 x 8 matrix of 16-bit elements

float ElementOf(MatrixElement element, uint32_t pair, int which) {
  const auto bits = static_cast<uint16_t>(pair >> (16 * which));
  return element == MatrixElement::kHalf ? __half2float({bits}) : __bfloat162float({bits});
}

struct MmaArgument {
  MatrixElement element;
  float* d;           // [4], of the caller's
  const uint32_t* a;  // [4]
  const uint32_t* b;  // [2]
};

// Where the elements lie that lane `lane` holds (PTX ISA, "Matrix Fragments for mma.m16n8k16").
struct Place {
  int row, column;
};
Place PlaceOfA(int lane, int i) {  // i of 8 elements
  const int group = lane / 4;
  const int pair = lane % 4;
  const bool upper = i < 2 || (i >= 4 && i < 6);
  return {upper ? group : group + 8, pair * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
Place PlaceOfB(int lane, int i) {  // i of 4
  return {lane % 4 * 2 + (i & 1) + (i >= 2 ? 8 : 0), lane / 4};
}
Place PlaceOfD(int lane, int i) {  // i of 4
  return {i < 2 ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + (i & 1)};
}

void CombineMma(void* const (&lanes)[kWarpThreads], uint32_t /*mask*/) {
  float a[kM][kK];
  float b[kK][kN];
  for (int lane = 0; lane < static_cast<int>(kWarpThreads); ++lane) {
    const auto& argument = *static_cast<const MmaArgument*>(lanes[lane]);
    for (int i = 0; i < 8; ++i) {
      const Place place = PlaceOfA(lane, i);
      a[place.row][place.column] = ElementOf(argument.element, argument.a[i / 2], i & 1);
    }
    for (int i = 0; i < 4; ++i) {
      const Place place = PlaceOfB(lane, i);
      b[place.row][place.column] = ElementOf(argument.element, argument.b[i / 2], i & 1);
    }
  }
  for (int lane = 0; lane < static_cast<int>(kWarpThreads); ++lane) {
    float* d = static_cast<const MmaArgument*>(lanes[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const Place place = PlaceOfD(lane, i);
      float sum = d[i];
      for (int k = 0; k < kK; ++k) sum += a[place.row][k] * b[k][place.column];
      d[i] = sum;
    }
  }
}

struct LoadArgument {
  int n;
  bool transposed;
  uint32_t* r;
  const void* row;
};

void CombineLoad(void* const (&lanes)[kWarpThreads], uint32_t /*mask*/) {
  const auto at = [&](int lane) -> const LoadArgument& {
    return *static_cast<const LoadArgument*>(lanes[lane]);
  };
  const int n = at(0).n;
  const bool transposed = at(0).transposed;
  for (int matrix = 0; matrix < n; ++matrix) {
    uint16_t elements[8][8];
    for (int row = 0; row < 8; ++row) std::memcpy(elements[row], at(matrix * 8 + row).row, kRowBytes);
    for (int lane = 0; lane < static_cast<int>(kWarpThreads); ++lane) {
      const int group = lane / 4;
      const int pair = lane % 4;
      const uint16_t low = transposed ? elements[2 * pair][group] : elements[group][2 * pair];
      const uint16_t high = transposed ? elements[2 * pair + 1][group] : elements[group][2 * pair + 1];
      at(lane).r[matrix] = low | uint32_t{high} << 16;
    }
  }
}

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kRowBytes == 0; }

}  // namespace

void Mma(MatrixElement element, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         const std::source_location& where) {
  MmaArgument argument{element, d, a, b};
  Collective(element == MatrixElement::kHalf ? "mma of f16" : "mma of bf16", kWholeWarp, &argument,
             &CombineMma, where);
}

void LoadMatrices(int n, bool transposed, uint32_t* r, const void* row, const std::source_location& where) {
  if (!IsAligned(row) || !IsShared(row, kRowBytes)) {
    SetFault("the row that ldmatrix at " + Describe(where) +
             " reads is not 16 aligned bytes of shared memory");
    EndKernel();
  }
  if (static_cast<int>(Lane()) < 8 * n) TsanRead(row, kRowBytes);
  LoadArgument argument{n, transposed, r, row};
  const char* name = n == 4 ? (transposed ? "ldmatrix.x4.trans" : "ldmatrix.x4")
                            : (transposed ? "ldmatrix.x2.trans" : "ldmatrix.x2");
  Collective(name, kWholeWarp, &argument, &CombineLoad, where);
}

void AsyncCopy(void* shared, const void* global, int valid_bytes, const std::source_location& where) {
  const char* wrong = nullptr;
  if (!IsAligned(shared) || !IsShared(shared, kRowBytes)) {
    wrong = "its destination is not 16 aligned bytes of shared memory";
  } else if (!IsAligned(global) || IsShared(global, 0)) {
    wrong = "its source is not aligned to 16 bytes, or lies in shared memory";
  } else if (valid_bytes < 0 || valid_bytes > kRowBytes) {
    wrong = "its size is none of 0 to 16";
  }
  if (wrong != nullptr) {
    SetFault("the asynchronous copy at " + Describe(where) + ": " + wrong);
    EndKernel();
  }
  IssueCopy(shared, global, kRowBytes, static_cast<size_t>(valid_bytes));
}

void AsyncCommit() { CommitCopies(); }

void AsyncWait(size_t newest_left) { AwaitCopies(newest_left); }

void CheckStore(const void* global, const std::source_location& where) {
  if (!IsAligned(global) || IsShared(global, 0)) {
    SetFault("the store at " + Describe(where) + " is not to 16 aligned bytes of global memory");
    EndKernel();
  }
}

}  // namespace spillway::fakes::cuda
