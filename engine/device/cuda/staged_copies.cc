#include "engine/device/cuda/staged_copies.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace spillway::device::cuda {
namespace {

absl::Status Record(cudaEvent_t event, cudaStream_t stream) {
  return CudaStatus(cudaEventRecord(event, stream), "recording an event");
}

absl::Status Await(cudaStream_t stream, cudaEvent_t event) {
  return CudaStatus(cudaStreamWaitEvent(stream, event, 0), "waiting for an event");
}

absl::StatusOr<cudaEvent_t> NewEvent() {
  cudaEvent_t event = nullptr;
  SPILLWAY_RETURN_IF_ERROR(
      CudaStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event"));
  return event;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StagedCopies>> StagedCopies::Create() {
  std::unique_ptr<StagedCopies> copies(new StagedCopies());
  int64_t ring_bytes = kRingBytesMax;
  for (;; ring_bytes /= 2) {
    const cudaError_t error =
        cudaHostAlloc(&copies->ring_, static_cast<size_t>(ring_bytes), cudaHostAllocPortable);
    if (error == cudaSuccess) break;
    (void)cudaGetLastError();  // said here; the device is as it was
    if (ring_bytes / 2 < kRingBytesMin) return CudaStatus(error, "page-locking a ring for staged copies");
  }
  const int64_t n_slots = ring_bytes / kSlotBytes;
  for (int64_t i = 0; i < n_slots; ++i) {
    Slot slot;
    slot.data = copies->ring_ + i * kSlotBytes;
    SPILLWAY_ASSIGN_OR_RETURN(slot.free, NewEvent());
    copies->slots_[static_cast<size_t>(i % 2)].push_back(slot);
  }
  SPILLWAY_ASSIGN_OR_RETURN(copies->order_, NewEvent());
  // As many as can move at once; more are made where more are enqueued.
  for (int64_t i = 0; i < n_slots; ++i) SPILLWAY_RETURN_IF_ERROR(copies->AddPiece());
  return copies;
}

StagedCopies::~StagedCopies() {
  for (const auto& [stream, beside] : beside_) {
    (void)cudaStreamSynchronize(beside);
    (void)cudaStreamDestroy(beside);
  }
  Stop();
  for (const auto& piece : pieces_) (void)cudaEventDestroy(piece->moved);
  for (const auto& slots : slots_) {
    for (const Slot& slot : slots) (void)cudaEventDestroy(slot.free);
  }
  if (order_ != nullptr) (void)cudaEventDestroy(order_);
  if (ring_ != nullptr) (void)cudaFreeHost(ring_);
}

void StagedCopies::Stop() {
  stopped_ = true;
  while (moving_ > 0) std::this_thread::yield();  // a slot's bytes at most: the driver starts no others
}

void StagedCopies::Move(void* argument) {
  const Piece& piece = *static_cast<const Piece*>(argument);
  ++piece.owner->moving_;
  if (!piece.owner->stopped_) {
    for (size_t i = 0; i < piece.n_parts; ++i) {
      std::memcpy(piece.parts[i].to, piece.parts[i].from, piece.parts[i].size_bytes);
    }
  }
  --piece.owner->moving_;
}

absl::Status StagedCopies::AddPiece() {
  auto piece = std::make_unique<Piece>();
  piece->owner = this;
  SPILLWAY_ASSIGN_OR_RETURN(piece->moved, NewEvent());
  pieces_.insert(pieces_.begin() + static_cast<std::ptrdiff_t>(next_piece_), std::move(piece));
  return absl::OkStatus();
}

absl::StatusOr<StagedCopies::Piece*> StagedCopies::TakePiece() {
  if (pieces_[next_piece_]->n_parts > 0) {
    const cudaEvent_t moved = pieces_[next_piece_]->moved;
    const cudaError_t state = cudaEventQuery(moved);
    if (state != cudaErrorNotReady) {
      SPILLWAY_RETURN_IF_ERROR(CudaStatus(state, "asking for an event"));
    } else if (pieces_.size() < kPiecesMax) {
      SPILLWAY_RETURN_IF_ERROR(AddPiece());
    } else {
      SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaEventSynchronize(moved), "waiting for a staged copy"));
    }
  }
  Piece* const piece = pieces_[next_piece_].get();
  next_piece_ = (next_piece_ + 1) % pieces_.size();
  piece->n_parts = 0;
  return piece;
}

absl::StatusOr<cudaStream_t> StagedCopies::Beside(cudaStream_t stream) {
  for (const auto& [of, beside] : beside_) {
    if (of == stream) return beside;
  }
  cudaStream_t beside = nullptr;
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking),
                                      "creating a stream for staged copies"));
  beside_.emplace_back(stream, beside);
  return beside;
}

absl::Status StagedCopies::Order(cudaStream_t first, cudaStream_t then) {
  SPILLWAY_RETURN_IF_ERROR(Record(order_, first));
  return Await(then, order_);
}

absl::Status StagedCopies::Enqueue(absl::Span<const CopyRun> runs, BatchCopies::Direction direction,
                                   cudaStream_t stream) {
  const bool in = direction == BatchCopies::Direction::kIn;
  std::vector<Slot>& slots = slots_[in ? 0 : 1];
  size_t& next_slot = next_slot_[in ? 0 : 1];
  SPILLWAY_ASSIGN_OR_RETURN(const cudaStream_t beside, Beside(stream));
  if (in) SPILLWAY_RETURN_IF_ERROR(Order(stream, beside));
  Piece* piece = nullptr;
  Slot* slot = nullptr;
  int64_t filled_bytes = 0;
  const auto finish = [&] {
    Piece& made = *std::exchange(piece, nullptr);
    filled_bytes = 0;
    return in ? EnqueueIn(made, *slot, stream, beside) : EnqueueOut(made, *slot, stream, beside);
  };
  for (const CopyRun& run : runs) {
    for (int64_t done = 0; done < run.size_bytes;) {
      if (piece == nullptr) {
        SPILLWAY_ASSIGN_OR_RETURN(piece, TakePiece());
        slot = &slots[next_slot];
        next_slot = (next_slot + 1) % slots.size();
        slot_runs_.clear();
      }
      const int64_t bytes = std::min(run.size_bytes - done, kSlotBytes - filled_bytes);
      uint8_t* const host = static_cast<uint8_t*>(run.host) + done;
      uint8_t* const staged = slot->data + filled_bytes;
      piece->parts[piece->n_parts++] = {in ? staged : host, in ? host : staged, static_cast<size_t>(bytes)};
      slot_runs_.push_back({run.device + done, staged, bytes});
      done += bytes;
      filled_bytes += bytes;
      if (filled_bytes == kSlotBytes || piece->n_parts == piece->parts.size()) {
        SPILLWAY_RETURN_IF_ERROR(finish());
      }
    }
  }
  if (piece != nullptr) SPILLWAY_RETURN_IF_ERROR(finish());
  return in ? absl::OkStatus() : Order(beside, stream);
}

absl::Status StagedCopies::EnqueueIn(Piece& piece, Slot& slot, cudaStream_t stream, cudaStream_t beside) {
  if (slot.used) SPILLWAY_RETURN_IF_ERROR(Await(beside, slot.free));
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaLaunchHostFunc(beside, &Move, &piece), "staging a copy"));
  SPILLWAY_RETURN_IF_ERROR(Record(piece.moved, beside));
  SPILLWAY_RETURN_IF_ERROR(Await(stream, piece.moved));
  SPILLWAY_RETURN_IF_ERROR(
      CudaStatus(device_copies_.Enqueue(slot_runs_, /*batched=*/true, BatchCopies::Direction::kIn, stream),
                 "copying in"));
  slot.used = true;
  return Record(slot.free, stream);
}

absl::Status StagedCopies::EnqueueOut(Piece& piece, Slot& slot, cudaStream_t stream, cudaStream_t beside) {
  if (slot.used) SPILLWAY_RETURN_IF_ERROR(Await(stream, slot.free));
  SPILLWAY_RETURN_IF_ERROR(
      CudaStatus(device_copies_.Enqueue(slot_runs_, /*batched=*/true, BatchCopies::Direction::kOut, stream),
                 "copying out"));
  SPILLWAY_RETURN_IF_ERROR(Order(stream, beside));
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaLaunchHostFunc(beside, &Move, &piece), "staging a copy"));
  SPILLWAY_RETURN_IF_ERROR(Record(piece.moved, beside));
  slot.used = true;
  return Record(slot.free, beside);
}

}  // namespace spillway::device::cuda
