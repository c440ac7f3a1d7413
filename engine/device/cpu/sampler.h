// Draws one token a row of logits (SampleRow says in what order the filters apply). The vocabulary is never
// sorted: it is scanned for those logits that can survive the filters, and only they are ordered.
//
// Thread-compatible; rows are sampled in parallel. Working memory grows with the largest vocabulary seen and
// is then kept.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_SAMPLER_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/thread_team.h"
#include "engine/device/ops.h"

namespace spillway::device {

class CpuSampler {
 public:
  CpuSampler(const Kernels& kernels, ThreadTeam& team);
  ~CpuSampler();

  void Sample(const SampleArgs& args);

 private:
  class RowSampler;

  const Kernels& kernels_;
  ThreadTeam& team_;
  std::vector<RowSampler> rows_;  // a thread each
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_SAMPLER_H_
