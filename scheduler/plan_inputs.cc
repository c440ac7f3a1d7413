#include "scheduler/plan_inputs.h"

#include <algorithm>
#include <cmath>

#include "engine/exec/staging_ring.h"

namespace spillway::scheduler {

using exec::BatchShape;
using profiler::MachineProfile;

void FillSplitInputs(const MachineProfile& profile, const BatchShape& shape, const SplitPolicy& policy,
                     const ResourceFactors& factors, SplitInputs* inputs) {
  const profiler::ProfiledModel& model = profile.model;
  SplitInputs& in = *inputs;
  in.mode = policy.mode;
  in.fixed_fraction = policy.fixed_fraction;
  in.beta_bytes = model.beta_bytes();
  in.chi_bytes = model.chi_bytes();
  const double slot_bytes = in.beta_bytes / 2;
  in.stored_chi_bytes = std::ceil(in.chi_bytes / slot_bytes - 1e-9) * slot_bytes;
  in.head_s = shape.head_rows > 0 ? factors.compute * profile.head.At(shape.head_rows) : 0;
  in.placement.reset();

  const double in_rate = profile.copy_in.bytes_per_s, out_rate = profile.copy_out.bytes_per_s;
  in.rates.link_in_bytes_per_s = in_rate / factors.link_in;
  in.rates.link_out_bytes_per_s = out_rate / factors.link_out;
  in.rates.link_both_bytes_per_s = profile.copy_both_bytes_per_s *
                                   (in.rates.link_in_bytes_per_s + in.rates.link_out_bytes_per_s) /
                                   (in_rate + out_rate);
  in.rates.host_memory_bytes_per_s = profile.host_memory_bytes_per_s;
  in.rates.compute_slowdown_by_link = std::max(1.0, profile.compute_slowdown_by_link);
  // Host attention is measured and planned for before an executor can do it.
  in.rates.host_attention_bytes_per_s = 0;
  in.rates.host_attention_fixed_s = 0;
  in.rates.rebuild.pieces.clear();
  for (const profiler::CostPiece& piece : profile.rebuild.pieces) {
    in.rates.rebuild.pieces.push_back({factors.compute * piece.fixed_s, factors.compute * piece.per_unit_s});
  }

  in.groups.resize(1);
  LayerGroup& group = in.groups[0];
  group.n_layers = model.n_layers;
  group.resident_kv_tokens = static_cast<double>(shape.resident_kv_tokens);
  group.resident_x_tokens = static_cast<double>(shape.resident_x_tokens);
  group.host_kv_tokens = static_cast<double>(shape.host_kv_tokens);
  group.host_x_tokens = static_cast<double>(shape.host_x_tokens);
  group.host_both_tokens = static_cast<double>(shape.host_both_tokens);
  group.linear_s = factors.compute * profile.linear.At(std::max(1, shape.new_tokens));
  const bool many_rows = shape.phase == exec::Phase::kPrefill && !profile.prefill_attention.pieces.empty();
  const profiler::CostCurve& attention = many_rows ? profile.prefill_attention : profile.attention;
  group.attention_s =
      shape.reads_tokens > 0 ? factors.compute * attention.At(static_cast<double>(shape.reads_tokens)) : 0;
  // The last layer's last chunk is rebuilt or attended to, then the layer and the step are completed.
  const double movable = group.host_kv_tokens + group.host_x_tokens + group.host_both_tokens;
  const double chunk = std::min<double>(model.chunk_tokens, movable);
  in.link_tail_s = 0;
  if (chunk > 0) {
    const bool rebuilds = policy.mode != exec::SplitMode::kTransfer && group.host_kv_tokens < movable;
    in.link_tail_s = in.head_s + group.linear_s + group.attention_s * chunk / movable +
                     (rebuilds ? std::max(0.0, in.rates.rebuild.At(chunk)) : 0);
    if (shape.phase == exec::Phase::kDecode && policy.mode != exec::SplitMode::kSerial &&
        shape.weight_load_bytes == 0) {
      // Meanwhile the next step's first layer is fetched, into half of the ring.
      const double ahead_bytes = std::min(movable, exec::AheadChunksMax(exec::kRingChunks) * chunk) *
                                 (rebuilds ? std::min(in.beta_bytes, in.chi_bytes) : in.beta_bytes);
      in.link_tail_s = std::max(0.0, in.link_tail_s - ahead_bytes / in.rates.link_in_bytes_per_s);
    }
  }
  group.weight_bytes = static_cast<double>(shape.weight_load_bytes) / model.n_layers;
  group.store_bytes = shape.new_tokens * (in.beta_bytes + (policy.store_x ? in.chi_bytes : 0));
}

SplitInputs MakeSplitInputs(const MachineProfile& profile, const BatchShape& shape, const SplitPolicy& policy,
                            const ResourceFactors& factors) {
  SplitInputs inputs;
  FillSplitInputs(profile, shape, policy, factors, &inputs);
  return inputs;
}

}  // namespace spillway::scheduler
