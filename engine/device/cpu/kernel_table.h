// The table of one kernel file. Included last.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_TABLE_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_TABLE_H_

namespace spillway::device {
namespace {

constexpr Kernels kTable = {
    .embed = EmbedRow,
    .add_norm = AddNormRow,
    .fill_rope_table = FillRopeTable,
    .rope = RopeHead,
    .gate = GateRow,
    .scale_to = ScaleToT,
    .blend = Blend,
    .product = MultiplyColumns,
    .attend = Attend,
    .summarise = Summarise,
    .sum_exp = SumExp,
    .collect = Collect,
    .count_above = CountAbove,
    .exp_weights = ExpWeights,
};

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_KERNEL_TABLE_H_
