#include "engine/exec/item_buffers.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"

namespace spillway::exec {
namespace {

using device::DevicePtr;

constexpr int64_t kAlignmentBytes = 256;

}  // namespace

absl::StatusOr<ItemBuffers> ItemBuffers::Create(device::Device& device, const model::ModelConfig& config,
                                                const ItemLimits& limits, const StepTables& tables,
                                                const CarryTables* carry) {
  ItemBuffers buffers;
  std::vector<std::pair<DevicePtr*, int64_t>> sizes;
  const auto add = [&sizes](DevicePtr* buffer, int64_t n, size_t element_bytes) {
    const int64_t size_bytes = n * static_cast<int64_t>(element_bytes);
    sizes.emplace_back(buffer, (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes);
  };
  add(&buffers.hidden, int64_t{limits.max_rows} * config.d_model, sizeof(float));
  add(&buffers.ids, limits.max_rows, sizeof(int32_t));
  add(&buffers.append, limits.max_rows, sizeof(device::AppendRow));
  add(&buffers.sequences, tables.max_sequences(), sizeof(device::AttentionSequence));
  add(&buffers.blocks, limits.max_blocks, sizeof(device::AttentionBlock));
  add(&buffers.output_rows, int64_t{limits.max_outputs} + limits.max_kept_logits, sizeof(int32_t));
  if (carry != nullptr) {
    add(&buffers.carry_sequences, carry->max_sequences(), sizeof(device::AttentionSequence));
    add(&buffers.carry_blocks, carry->max_blocks(), sizeof(device::AttentionBlock));
    add(&buffers.carry_positions, carry->max_positions(), sizeof(int32_t));
  }
  int64_t total_bytes = 0;
  for (const auto& [buffer, size_bytes] : sizes) total_bytes += size_bytes;
  SPILLWAY_ASSIGN_OR_RETURN(buffers.memory_, device.Allocate(total_bytes, "work item"));
  buffers.device_ = &device;
  DevicePtr next = buffers.memory_;
  for (const auto& [buffer, size_bytes] : sizes) {
    *buffer = next;
    next = next + size_bytes;
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
