#include "engine/exec/item_outputs.h"

#include <algorithm>

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::exec {

using device::DevicePtr;

ItemOutputs::ItemOutputs(const ItemLimits& limits, int32_t vocab_size)
    : vocab_size_(vocab_size),
      results_(static_cast<size_t>(limits.max_outputs)),
      kept_logits_(static_cast<size_t>(limits.max_kept_logits * int64_t{vocab_size})) {}

void ItemOutputs::Enqueue(device::Device& device, model::Transformer& transformer, device::StreamId stream,
                          const StepTables& tables, DevicePtr hidden, DevicePtr output_rows) {
  const int32_t n_samples = static_cast<int32_t>(tables.samples().size());
  const int32_t n_outputs = static_cast<int32_t>(tables.output_rows().size());
  for (int32_t first = 0; first < n_outputs;) {
    const bool sampled = first < n_samples;
    const int32_t n = std::min((sampled ? n_samples : n_outputs) - first, transformer.limits().max_head_rows);
    const DevicePtr rows = output_rows + int64_t{first} * static_cast<int64_t>(sizeof(int32_t));
    const DevicePtr logits = transformer.Head(stream, n, hidden, rows);
    if (sampled) {
      device::SampleArgs args;
      args.rows = n;
      args.vocab = static_cast<int32_t>(vocab_size_);
      args.logits = logits;
      args.sample = tables.samples().data() + first;
      args.results = results_.data() + first;
      device.Sample(stream, args);
    } else {
      float* kept = kept_logits_.data() + (first - n_samples) * vocab_size_;
      device.CopyOut(stream, kept, logits, n * vocab_size_ * 4);
    }
    first += n;
  }
}

absl::Span<const device::SampleResult> ItemOutputs::Samples(const StepTables& tables) const {
  return absl::MakeConstSpan(results_).first(tables.samples().size());
}

absl::Span<const float> ItemOutputs::Logits(const StepTables& tables, int32_t segment, int32_t row) const {
  const absl::Span<const int32_t> kept_begin = tables.kept_begin();
  SPILLWAY_CHECK(segment >= 0 && static_cast<size_t>(segment) < kept_begin.size());
  const int32_t begin = kept_begin[static_cast<size_t>(segment)];
  SPILLWAY_CHECK_MSG(begin >= 0 && row >= 0, "the segment kept no logits");
  return absl::MakeConstSpan(kept_logits_)
      .subspan(static_cast<size_t>((begin + row) * vocab_size_), static_cast<size_t>(vocab_size_));
}

absl::Status WarmUpOutputs(device::Device& device, model::Transformer& transformer, device::StreamId stream) {
  const int64_t hidden_bytes = int64_t{transformer.config().d_model} * 4;
  SPILLWAY_ASSIGN_OR_RETURN(const DevicePtr hidden, device.Allocate(hidden_bytes, "warm-up"));
  device.Fill(stream, hidden, 0, hidden_bytes);
  device::SampleRow greedy{};
  greedy.repetition_penalty = greedy.top_p = 1;
  greedy.n_logprobs = -1;
  device::SampleResult result;
  device::SampleArgs args;
  args.rows = 1;
  args.vocab = transformer.config().vocab_size;
  args.logits = transformer.Head(stream, 1, hidden, DevicePtr{});
  args.sample = &greedy;
  args.results = &result;
  device.Sample(stream, args);
  const device::EventId done = device.CreateEvent();
  device.Record(done, stream);
  const absl::Status status = device.Synchronize(done);
  device.Free(hidden);
  return status;
}

}  // namespace spillway::exec
