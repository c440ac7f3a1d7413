// Profiles made by hand, of a GPU on a 25 GB/s link. Shared by the tests that plan.
#ifndef SPILLWAY_TESTS_SCHEDULER_PROFILES_H_
#define SPILLWAY_TESTS_SCHEDULER_PROFILES_H_

#include "profiler/machine_profile.h"

namespace spillway::scheduler {

inline profiler::CostCurve LinearCost(double per_unit_s) {
  return *profiler::FitConvex({{1, per_unit_s}, {100, 100 * per_unit_s}});
}

// A 16-bit multi-head model of 32 layers.
inline profiler::MachineProfile MultiHeadProfile() {
  profiler::MachineProfile p;
  p.description = "made by hand";
  p.model = {"multi-head", 32, 4096, 32, 32, 128, 50000, 2, 32, 4e8, 13.4e9};
  p.copy_in = {25e9, 1e-5, LinearCost(1 / 25e9), LinearCost(1 / 25e9), {}};
  p.copy_out = p.copy_in;
  p.copy_both_bytes_per_s = 45e9;
  p.rebuild = LinearCost(2e-7);
  p.linear = LinearCost(2e-5);
  p.head = LinearCost(1e-4);
  p.attention = LinearCost(1e-8);
  p.host_memory_bytes_per_s = 150e9;
  p.device_memory_bytes = 24e9;
  p.host_memory_bytes = 256e9;
  return p;
}

// A grouped-query model on the same machine: chi = 2 * beta.
inline profiler::MachineProfile GroupedQueryProfile() {
  profiler::MachineProfile p = MultiHeadProfile();
  p.model = {"grouped-query", 32, 4096, 32, 8, 128, 128000, 2, 64, 4.4e8, 16e9};
  p.rebuild = LinearCost(5e-8);
  return p;
}

}  // namespace spillway::scheduler

#endif  // SPILLWAY_TESTS_SCHEDULER_PROFILES_H_
