#include "engine/device/cuda/sample_batches.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cuda/address.h"
#include "engine/device/cuda/cuda_error.h"

namespace spillway::device::cuda {
namespace {

constexpr int32_t kSlots = 4;
constexpr int64_t kSlotBytes = 512 * kKiB;
constexpr int64_t kAlignment = 16;

constexpr int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool HasPenalty(const SampleRow& row) {
  return row.n_history > 0 &&
         (row.repetition_penalty != 1 || row.frequency_penalty != 0 || row.presence_penalty != 0);
}

// What one row needs, beside its task and its result.
struct RowNeeds {
  int64_t history_bytes = 0;
  int64_t mask_bytes = 0;
  int64_t ids_bytes = 0;
  bool counts = false;  // f32 or u32 [vocab] of scratch each
  bool copy = false;

  bool changes() const { return counts || mask_bytes > 0 || ids_bytes > 0; }
  int64_t staged_bytes() const {
    return Aligned(sizeof(SampleTask)) + Aligned(sizeof(SampleResult)) + Aligned(history_bytes) +
           Aligned(mask_bytes) + Aligned(ids_bytes);
  }
  int64_t scratch_vocabularies() const { return int64_t{counts} + int64_t{copy}; }
};

RowNeeds NeedsOf(const SampleRow& row, int32_t vocab) {
  RowNeeds needs;
  needs.counts = HasPenalty(row);
  if (needs.counts) needs.history_bytes = row.n_history * int64_t{4};
  if (row.forbidden != nullptr) needs.mask_bytes = (vocab + 31) / 32 * int64_t{4};
  needs.ids_bytes = row.n_forbidden_ids * int64_t{4};
  needs.copy = needs.changes() && row.n_logprobs >= 0;
  return needs;
}

// Places things in a slot, one after the other.
class SlotWriter {
 public:
  explicit SlotWriter(const PinnedSlots::Slot& slot) : slot_(slot) {}

  // Room for `n` values of T: on the host, and as the device sees it.
  template <typename T>
  std::pair<T*, T*> Place(int64_t n) {
    const int64_t at = used_bytes_;
    used_bytes_ += Aligned(n * static_cast<int64_t>(sizeof(T)));
    return {reinterpret_cast<T*>(slot_.host + at), reinterpret_cast<T*>(slot_.device + at)};
  }
  // A copy of `n` values, as the device sees it.
  template <typename T>
  const T* Put(const T* values, int64_t n) {
    const auto [host, device] = Place<T>(n);
    std::memcpy(host, values, static_cast<size_t>(n) * sizeof(T));
    return device;
  }

 private:
  const PinnedSlots::Slot slot_;
  int64_t used_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SampleBatches>> SampleBatches::Create(void* scratch, int64_t scratch_bytes) {
  std::unique_ptr<SampleBatches> batches(new SampleBatches(scratch, scratch_bytes));
  SPILLWAY_ASSIGN_OR_RETURN(batches->slots_, PinnedSlots::Create(kSlots, kSlotBytes));
  batches->pending_.reserve(kSlots);
  return batches;
}

absl::Status SampleBatches::Enqueue(const SampleArgs& args, KernelStream stream) {
  SPILLWAY_CHECK(args.vocab > 0 && args.vocab <= kSampledVocabularyMax);
  for (int32_t first = 0; first < args.rows;) {
    SPILLWAY_ASSIGN_OR_RETURN(const int32_t done, EnqueueSome(args, first, stream));
    first += done;
  }
  return absl::OkStatus();
}

// As many rows from `first` on as fit into one slot and into scratch; returns how many.
absl::StatusOr<int32_t> SampleBatches::EnqueueSome(const SampleArgs& args, int32_t first,
                                                   KernelStream stream) {
  const int64_t vocab_bytes = Aligned(args.vocab * int64_t{4});
  int32_t n = 0;
  int32_t n_counts = 0;
  int64_t staged_bytes = 0;
  int64_t vocabularies = 0;
  for (; first + n < args.rows; ++n) {
    const RowNeeds needs = NeedsOf(args.sample[first + n], args.vocab);
    const bool fits = staged_bytes + needs.staged_bytes() <= slots_->slot_bytes() &&
                      (vocabularies + needs.scratch_vocabularies()) * vocab_bytes <= scratch_bytes_;
    if (n > 0 && !fits) break;
    staged_bytes += needs.staged_bytes();
    vocabularies += needs.scratch_vocabularies();
    n_counts += needs.counts ? 1 : 0;
    if (!fits) {
      n = 1;
      break;
    }
  }
  SPILLWAY_CHECK_MSG(vocabularies * vocab_bytes <= scratch_bytes_, "the scratch holds no row of logits");
  SPILLWAY_RETURN_IF_ERROR(MakeRoom(staged_bytes));
  SPILLWAY_RETURN_IF_ERROR(Retire(slots_->next()));
  SPILLWAY_ASSIGN_OR_RETURN(const PinnedSlots::Slot slot, slots_->Take());

  // Counts come first in scratch, so that they are cleared together.
  uint8_t* counts = static_cast<uint8_t*>(scratch_);
  uint8_t* copies = counts + n_counts * vocab_bytes;
  if (n_counts > 0) {
    SPILLWAY_RETURN_IF_ERROR(
        CudaStatus(cudaMemsetAsync(counts, 0, static_cast<size_t>(n_counts * vocab_bytes), stream.handle),
                   "clearing counts"));
  }
  SlotWriter writer(slot);
  const auto [tasks, device_tasks] = writer.Place<SampleTask>(n);
  const auto [results, device_results] = writer.Place<SampleResult>(n);
  for (int32_t i = 0; i < n; ++i) {
    const RowNeeds needs = NeedsOf(args.sample[first + i], args.vocab);
    SampleTask task;
    task.row = args.sample[first + i];
    task.index = i;
    if (needs.counts) {
      task.row.history = writer.Put(task.row.history, task.row.n_history);
      task.counts = reinterpret_cast<uint32_t*>(counts);
      counts += vocab_bytes;
    }
    if (needs.mask_bytes > 0) task.row.forbidden = writer.Put(task.row.forbidden, (args.vocab + 31) / 32);
    if (needs.ids_bytes > 0)
      task.row.forbidden_ids = writer.Put(task.row.forbidden_ids, task.row.n_forbidden_ids);
    task.changes_in_place = needs.changes() && !needs.copy;
    if (needs.copy) {
      task.changed = reinterpret_cast<float*>(copies);
      copies += vocab_bytes;
    }
    new (tasks + i) SampleTask(task);
  }
  SampleLaunch launch;
  launch.n_tasks = n;
  launch.vocab = args.vocab;
  launch.logits = At<const float>(args.logits) + int64_t{first} * args.vocab;
  launch.tasks = device_tasks;
  launch.results = device_results;
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(LaunchSample(launch, stream), "sampling"));
  SPILLWAY_RETURN_IF_ERROR(slots_->Release(slot.index, stream.handle));
  pending_.push_back({slot.index, results, args.results + first, n});
  return n;
}

// A row whose history is longer than any before it: larger slots, once what uses these has run.
absl::Status SampleBatches::MakeRoom(int64_t bytes) {
  if (bytes <= slots_->slot_bytes()) return absl::OkStatus();
  for (int32_t i = 0; i < kSlots; ++i) SPILLWAY_RETURN_IF_ERROR(slots_->Take().status());
  SPILLWAY_RETURN_IF_ERROR(Deliver());
  const int64_t slot_bytes = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(bytes)));
  SPILLWAY_ASSIGN_OR_RETURN(slots_, PinnedSlots::Create(kSlots, slot_bytes));
  return absl::OkStatus();
}

// Waits for the slot's last use and delivers what it holds.
absl::Status SampleBatches::Retire(int32_t slot) {
  const auto uses = [slot](const Pending& pending) { return pending.slot == slot; };
  if (std::none_of(pending_.begin(), pending_.end(), uses)) return absl::OkStatus();
  SPILLWAY_RETURN_IF_ERROR(slots_->WaitFor(slot));
  return Deliver();
}

absl::Status SampleBatches::Deliver() {
  size_t delivered = 0;
  for (size_t i = 0; i < pending_.size(); ++i) {
    const Pending& pending = pending_[i];
    SPILLWAY_ASSIGN_OR_RETURN(const bool done, slots_->IsFree(pending.slot));
    if (!done) {
      pending_[i - delivered] = pending;
      continue;
    }
    std::copy_n(pending.from, pending.count, pending.to);
    ++delivered;
  }
  pending_.resize(pending_.size() - delivered, Pending{});
  return absl::OkStatus();
}

}  // namespace spillway::device::cuda
