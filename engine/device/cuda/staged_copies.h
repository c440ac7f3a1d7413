// Copies between the device and host memory that could not be page-locked, through a ring of page-locked
// slots. The driver would stage such copies too, but makes who enqueues them wait until the host's side is
// done with: the step thread, which has other lanes to feed.
//
// A copy is cut into pieces of a slot. Host functions, which the driver runs in the order of a stream, move
// bytes between pageable memory and slots; the device copies between slots and its memory in the caller's own
// stream. Each stream has a second one beside it for its host functions, so that one piece is moved while
// another is copied:
//   in:  beside waits for the stream, and for each slot until it is free; moves; the stream waits; copies.
//   out: the stream waits for each slot until it is free; copies; beside waits; moves; the stream waits in
//   the
//        end.
// So a copy has its place in its stream as any other has: it sees what was stored before it there or before
// an event that the stream waits for, and an event recorded behind it has its bytes. All waits are of streams
// for work that was enqueued earlier, and host functions wait for nothing: nothing can wait in a circle,
// whatever threads the driver runs them in.
//
// Who enqueues waits only where kPiecesMax pieces are under way. Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_STAGED_COPIES_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_STAGED_COPIES_H_

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/cuda/batch_copies.h"
#include "engine/device/types.h"

namespace spillway::device::cuda {

class StagedCopies {
 public:
  static constexpr int64_t kSlotBytes = int64_t{1} << 20;
  static constexpr int64_t kRingBytesMax = 64 * kSlotBytes;
  static constexpr int64_t kRingBytesMin = 4 * kSlotBytes;
  static constexpr size_t kPiecesMax = 1024;

  // With the largest ring that the machine locks, halved from kRingBytesMax on. The error, which leaves the
  // device as it was, where it does not lock kRingBytesMin.
  static absl::StatusOr<std::unique_ptr<StagedCopies>> Create();
  // What was enqueued must have run, unless the device failed.
  ~StagedCopies();
  StagedCopies(const StagedCopies&) = delete;
  StagedCopies& operator=(const StagedCopies&) = delete;

  // The runs have no order among themselves. `stream` must live as long as this.
  absl::Status Enqueue(absl::Span<const CopyRun> runs, BatchCopies::Direction direction, cudaStream_t stream);
  // After the device's error: once it returns, host functions touch nothing but their slots any more.
  void Stop();

  int64_t ring_bytes() const {
    return static_cast<int64_t>(slots_[0].size() + slots_[1].size()) * kSlotBytes;
  }

 private:
  struct Slot {
    uint8_t* data = nullptr;  // [kSlotBytes]
    cudaEvent_t free = nullptr;
    bool used = false;  // `free` was recorded
  };
  // What one host function does. Stays as it is until that has run.
  struct Piece {
    struct Part {
      uint8_t* to;
      const uint8_t* from;
      size_t size_bytes;
    };
    StagedCopies* owner = nullptr;
    std::array<Part, 64> parts;
    size_t n_parts = 0;
    cudaEvent_t moved = nullptr;  // behind the host function
  };

  StagedCopies() = default;
  static void Move(void* piece);
  absl::Status AddPiece();
  // A piece that is not under way, empty.
  absl::StatusOr<Piece*> TakePiece();
  absl::StatusOr<cudaStream_t> Beside(cudaStream_t stream);
  absl::Status Order(cudaStream_t first, cudaStream_t then);
  absl::Status EnqueueIn(Piece& piece, Slot& slot, cudaStream_t stream, cudaStream_t beside);
  absl::Status EnqueueOut(Piece& piece, Slot& slot, cudaStream_t stream, cudaStream_t beside);

  uint8_t* ring_ = nullptr;
  std::array<std::vector<Slot>, 2> slots_;  // by direction, so that neither waits for the other
  std::array<size_t, 2> next_slot_{};       // round robin
  std::vector<std::unique_ptr<Piece>> pieces_;
  size_t next_piece_ = 0;  // the one that was enqueued first, or was never
  std::vector<std::pair<cudaStream_t, cudaStream_t>> beside_;
  cudaEvent_t order_ = nullptr;
  BatchCopies device_copies_{nullptr};
  std::vector<CopyRun> slot_runs_;  // of the piece that is made: between its slot and the device

  std::atomic<bool> stopped_{false};
  std::atomic<int32_t> moving_{0};  // host functions that run
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_STAGED_COPIES_H_
