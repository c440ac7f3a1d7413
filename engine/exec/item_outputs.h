// ItemOutputs: what a work item gives back - sampled tokens, and logits that were to be kept - and how they
// are computed from its hidden rows.
//
// Sized at construction. Step thread only.
#ifndef SPILLWAY_ENGINE_EXEC_ITEM_OUTPUTS_H_
#define SPILLWAY_ENGINE_EXEC_ITEM_OUTPUTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/device/device.h"
#include "engine/exec/executor.h"
#include "engine/exec/step_tables.h"
#include "engine/model/transformer.h"

namespace spillway::exec {

class ItemOutputs {
 public:
  ItemOutputs(const ItemLimits& limits, int32_t vocab_size);

  // Head and sampling of all of the tables' output rows, at most transformer.limits().max_head_rows at a
  // time. `output_rows` is tables.output_rows() on the device. What is given back is there when the stream
  // has done it.
  void Enqueue(device::Device& device, model::Transformer& transformer, device::StreamId stream,
               const StepTables& tables, device::DevicePtr hidden, device::DevicePtr output_rows);

  // One for each of the tables' samples.
  absl::Span<const device::SampleResult> Samples(const StepTables& tables) const;
  // As Executor::LogitsOf says.
  absl::Span<const float> Logits(const StepTables& tables, int32_t segment, int32_t row) const;

 private:
  const int64_t vocab_size_;
  std::vector<device::SampleResult> results_;  // [max_outputs]
  std::vector<float> kept_logits_;             // [max_kept_logits, vocab]
};

// Runs the final norm, the head and sampling of one row, so that what a device allocates at their first use
// is there before the first step.
absl::Status WarmUpOutputs(device::Device& device, model::Transformer& transformer, device::StreamId stream);

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_ITEM_OUTPUTS_H_
