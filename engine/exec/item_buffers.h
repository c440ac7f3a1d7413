// ItemBuffers: a work item's device memory, one allocation: the residual stream of its rows, and room for the
// tables of a step.
//
// Step thread only. Nothing is allocated after Create.
#ifndef SPILLWAY_ENGINE_EXEC_ITEM_BUFFERS_H_
#define SPILLWAY_ENGINE_EXEC_ITEM_BUFFERS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/exec/carry_tables.h"
#include "engine/exec/executor.h"
#include "engine/exec/step_tables.h"
#include "engine/model/model_config.h"

namespace spillway::exec {

class ItemBuffers {
 public:
  ItemBuffers() = default;  // none
  // Room for everything that an item's StepTables and, where it `carries`, CarryTables can grow to.
  // ResourceExhausted without the device memory. `device` must outlive the buffers.
  static absl::StatusOr<ItemBuffers> Create(device::Device& device, const model::ModelConfig& config,
                                            const ItemLimits& limits, int32_t chunk_rows, bool carries);
  // What that takes.
  static int64_t SizeBytes(const model::ModelConfig& config, const ItemLimits& limits, int32_t chunk_rows,
                           bool carries);
  ~ItemBuffers();
  ItemBuffers(ItemBuffers&& other) noexcept { *this = std::move(other); }
  ItemBuffers& operator=(ItemBuffers&& other) noexcept;

  // Enqueues the copies of a step's tables, which must stay as they are until the stream has made them.
  void CopyIn(device::StreamId stream, const StepTables& tables, const CarryTables* carry);

  device::DevicePtr hidden;  // f32 [max_rows, d]
  device::DevicePtr ids;     // the arrays of StepTables
  device::DevicePtr append;
  device::DevicePtr sequences;
  device::DevicePtr blocks;
  device::DevicePtr output_rows;
  device::DevicePtr carry_sequences;  // of CarryTables
  device::DevicePtr carry_blocks;
  device::DevicePtr carry_positions;

 private:
  struct Part {
    device::DevicePtr ItemBuffers::*buffer;
    int64_t size_bytes;
  };
  static std::vector<Part> PartsOf(const model::ModelConfig& config, const ItemLimits& limits,
                                   int32_t chunk_rows, bool carries);

  device::Device* device_ = nullptr;
  device::DevicePtr memory_;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_ITEM_BUFFERS_H_
