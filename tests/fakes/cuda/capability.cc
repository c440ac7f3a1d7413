#include "tests/fakes/cuda/capability.h"

#include <algorithm>
#include <iterator>

namespace spillway::fakes::cuda {
namespace {

// The architectures that our build compiles for (engine/device/cuda): binary code for one runs on the same
// major version with the same or a later minor.
constexpr struct { int major, minor; } kArchitectures[] = {{8, 0}, {8, 6}, {8, 9}, {9, 0}, {10, 0}, {12, 0}};

}  // namespace

bool HasKernelImage(const MachineOptions& machine) {
  if (machine.kernels_compiled_for != 0) return true;
  return std::any_of(std::begin(kArchitectures), std::end(kArchitectures),
                     [&](const auto& a) { return a.major == machine.major && a.minor <= machine.minor; });
}

int CompiledFor(const MachineOptions& machine) {
  return machine.kernels_compiled_for != 0 ? machine.kernels_compiled_for
                                           : machine.major * 10 + machine.minor;
}

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
int SharedBytesMax(const MachineOptions& machine) {
  switch (machine.major * 10 + machine.minor) {
    case 80:
    case 87:
      return 163 << 10;
    case 86:
    case 89:
    case 120:
      return 99 << 10;
    case 90:
    case 100:
      return 227 << 10;
    default:
      return 48 << 10;
  }
}

}  // namespace spillway::fakes::cuda
