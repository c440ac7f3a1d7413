#include "engine/exec/item_buffers.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"

namespace spillway::exec {
namespace {

using device::DevicePtr;

constexpr int64_t kAlignmentBytes = 256;

}  // namespace

std::vector<ItemBuffers::Part> ItemBuffers::PartsOf(const model::ModelConfig& config,
                                                    const ItemLimits& limits, int32_t chunk_rows,
                                                    bool carries) {
  std::vector<Part> parts;
  const auto add = [&parts](DevicePtr ItemBuffers::*buffer, int64_t n, size_t element_bytes) {
    const int64_t size_bytes = n * static_cast<int64_t>(element_bytes);
    parts.push_back({buffer, (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes});
  };
  add(&ItemBuffers::hidden, int64_t{limits.max_rows} * config.d_model, sizeof(float));
  add(&ItemBuffers::ids, limits.max_rows, sizeof(int32_t));
  add(&ItemBuffers::append, limits.max_rows, sizeof(device::AppendRow));
  add(&ItemBuffers::sequences, StepTables::MaxSequences(limits, chunk_rows),
      sizeof(device::AttentionSequence));
  add(&ItemBuffers::blocks, limits.max_blocks, sizeof(device::AttentionBlock));
  add(&ItemBuffers::output_rows, int64_t{limits.max_outputs} + limits.max_kept_logits, sizeof(int32_t));
  if (carries) {
    // Every block may be carried, and read by one.
    add(&ItemBuffers::carry_sequences, limits.max_blocks, sizeof(device::AttentionSequence));
    add(&ItemBuffers::carry_blocks, limits.max_blocks, sizeof(device::AttentionBlock));
    add(&ItemBuffers::carry_positions, limits.max_blocks, sizeof(int32_t));
  }
  return parts;
}

int64_t ItemBuffers::SizeBytes(const model::ModelConfig& config, const ItemLimits& limits, int32_t chunk_rows,
                               bool carries) {
  int64_t total_bytes = 0;
  for (const Part& part : PartsOf(config, limits, chunk_rows, carries)) total_bytes += part.size_bytes;
  return total_bytes;
}

absl::StatusOr<ItemBuffers> ItemBuffers::Create(device::Device& device, const model::ModelConfig& config,
                                                const ItemLimits& limits, int32_t chunk_rows, bool carries) {
  ItemBuffers buffers;
  SPILLWAY_ASSIGN_OR_RETURN(buffers.memory_,
                            device.Allocate(SizeBytes(config, limits, chunk_rows, carries), "work item"));
  buffers.device_ = &device;
  DevicePtr next = buffers.memory_;
  for (const Part& part : PartsOf(config, limits, chunk_rows, carries)) {
    buffers.*part.buffer = next;
    next = next + part.size_bytes;
  }
  return buffers;
}

ItemBuffers::~ItemBuffers() {
  if (memory_) device_->Free(memory_);
}

ItemBuffers& ItemBuffers::operator=(ItemBuffers&& other) noexcept {
  if (this == &other) return *this;
  if (memory_) device_->Free(memory_);
  hidden = other.hidden;
  ids = other.ids;
  append = other.append;
  sequences = other.sequences;
  blocks = other.blocks;
  output_rows = other.output_rows;
  carry_sequences = other.carry_sequences;
  carry_blocks = other.carry_blocks;
  carry_positions = other.carry_positions;
  device_ = other.device_;
  memory_ = std::exchange(other.memory_, {});
  return *this;
}

void ItemBuffers::CopyIn(device::StreamId stream, const StepTables& tables, const CarryTables* carry) {
  const auto copy = [&](DevicePtr to, auto values) {
    if (values.empty()) return;
    device_->CopyIn(stream, to, values.data(), static_cast<int64_t>(values.size() * sizeof(values[0])));
  };
  copy(ids, tables.ids());
  copy(append, tables.append());
  copy(sequences, tables.sequences());
  copy(blocks, tables.blocks());
  copy(output_rows, tables.output_rows());
  if (carry == nullptr) return;
  copy(carry_sequences, carry->sequences());
  copy(carry_blocks, carry->blocks());
  copy(carry_positions, carry->positions());
}

}  // namespace spillway::exec
