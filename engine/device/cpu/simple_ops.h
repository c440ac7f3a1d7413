// Every operation in plain loops: correct and slow. The first version; the kernels replace it.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_SIMPLE_OPS_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_SIMPLE_OPS_H_

#include "engine/device/device.h"

namespace spillway::device {

template <typename T>
struct SimpleOps {
  static void Embed(const EmbedArgs& args);
  static void AddNorm(const AddNormArgs& args);
  static void Gemm(const PackedMatrix& weight, const GemmArgs& args);
  static void RopeAppend(const RopeAppendArgs& args);
  static void PartialAttention(const PartialAttentionArgs& args);
  static void MergeAttention(const MergeAttentionArgs& args);
  static void GatedActivation(const GatedActivationArgs& args);
};
void SimpleSample(const SampleArgs& args);

float ToFloat(float v);
struct BFloat16 {
  uint16_t bits;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_SIMPLE_OPS_H_
