// The fake machine itself, for the sources of the fake: memory, streams and their operations, events, the
// clock, and what is to go wrong. Nothing here locks: Machine::Call does.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_MACHINE_STATE_H_
#define SPILLWAY_TESTS_FAKES_CUDA_MACHINE_STATE_H_

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tests/fakes/cuda/block_runner.h"
#include "tests/fakes/cuda/fiber.h"
#include "tests/fakes/cuda/machine.h"
#include "tests/fakes/cuda/random.h"

namespace spillway::fakes::cuda {

class Machine;

// What does the work of an operation, one of each: they take their turns.
enum class Engine : uint8_t { kNone, kCompute, kIn, kOut, kCount };

// What a stream has to do: something that runs in parts, so that other streams' parts come between.
class Operation {
 public:
  virtual ~Operation() = default;
  // The stream that must go on before this may run; null: it may.
  virtual CUstream_st* WaitsFor() const { return nullptr; }
  // Does a part; true when all is done.
  virtual bool Step(Machine& machine) = 0;
  // A kernel that is launched so may begin before it has ended.
  virtual bool IsKernel() const { return false; }
  // Keeps nothing behind it waiting.
  virtual bool IsRecord() const { return false; }
  // Said at every step of a kernel ahead of it: begins, if it is launched so and the seed says so.
  virtual void BeginEarly(Machine& /*machine*/) {}

  Engine engine = Engine::kNone;
  int64_t cost_ns = 0;
  int64_t enqueued_ns = 0;
  char enqueued = 0;  // an address for ThreadSanitizer, as `ran` and `done_so_far` below
};

// One record of an event: a later record of the same event is another one, and who waits for this keeps on.
struct EventRecord {
  CUstream_st* stream = nullptr;  // in which it is enqueued until it has run
  bool done = false;
  int64_t time_ns = 0;
  char ran = 0;
};

}  // namespace spillway::fakes::cuda

struct CUstream_st {
  std::deque<std::unique_ptr<spillway::fakes::cuda::Operation>> operations;
  int64_t time_ns = 0;
  uint32_t weight = 1;  // how often it is its turn
  // For ThreadSanitizer a stream is a thread, and its kernels' threads are its own: what is not ordered by an
  // enqueuing, an event or a synchronisation is a race.
  spillway::fakes::cuda::TsanContext context;
  // Of the kernel whose turn it is, and of the next, which may have begun; the second is made when it is
  // needed.
  std::array<std::unique_ptr<spillway::fakes::cuda::BlockRunner>, 2> blocks;
  char done_so_far = 0;
};

struct CUevent_st {
  std::shared_ptr<spillway::fakes::cuda::EventRecord> last;  // null: never recorded
  bool timing = true;
};

namespace spillway::fakes::cuda {

class Machine {
 public:
  Machine();
  ~Machine() { Reset(MachineOptions{}); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  static Machine& Get();

  // Every runtime function is one of these: locks, fails if it is its turn to (or the machine has failed, or
  // there is no driver), runs `body(machine)`, and remembers the error that it returns.
  template <typename Body>
  static cudaError_t Call(const char* name, Body body) {
    Machine& machine = Get();
    const std::lock_guard<std::recursive_mutex> lock(machine.mutex_);
    cudaError_t error = machine.Enter(name);
    if (error == cudaSuccess) error = body(machine);
    if (error == cudaSuccess) return error;
    machine.last_error_ = error;
    return error;
  }

  void Reset(const MachineOptions& options);

  // --- Errors.
  // The machine fails for good: nothing that is enqueued runs any more.
  void Fail(cudaError_t error, const std::string& message);
  // Says why a call is refused, which an error's number alone does not.
  cudaError_t Refuse(cudaError_t error, const std::string& message);
  // True if the next operation of this kind ("kernel", "copy") was told to fail; it then has.
  bool FailsNow(const char* kind);

  // --- Memory.
  cudaError_t Allocate(void** pointer, size_t size_bytes);
  cudaError_t Free(void* pointer);
  cudaError_t Pin(void* pointer, size_t size_bytes, bool owned);
  cudaError_t Unpin(void* pointer, bool owned);
  bool IsDevice(const void* pointer, size_t size_bytes) const { return Holds(device_, pointer, size_bytes); }
  bool IsPinned(const void* pointer, size_t size_bytes) const { return Holds(pinned_, pointer, size_bytes); }
  // Some of it is, but all of it is not by one registration.
  bool IsPinnedInPart(const void* pointer, size_t size_bytes) const;
  // Pinned where it was, not allocated so.
  bool IsRegistered(const void* pointer) const;

  // --- Streams.
  CUstream_st* NewStream();
  void DeleteStream(CUstream_st* stream);
  // A runner of the stream that no kernel has; taken.
  BlockRunner& TakeRunner(CUstream_st& stream);
  // Null: the default stream. The result is null if there is no such stream.
  CUstream_st* Find(cudaStream_t stream);
  bool IsEvent(cudaEvent_t event) const;
  void Enqueue(CUstream_st& stream, std::unique_ptr<Operation> operation);
  // Some work gets done, as the seed says.
  void Progress();
  // Works until `stream` has nothing to do, or the machine fails.
  void Drain(CUstream_st& stream);
  void DrainAll();
  // Works until this record has run.
  void DrainTo(EventRecord& record);
  // A step of work that brings `stream` forward.
  void StepToward(CUstream_st& stream);

  MachineOptions options;
  MachineCounts counts;
  Random random{1};
  std::map<const void*, int> shared_bytes_allowed;  // by kernel
  std::map<cudaEvent_t, std::unique_ptr<CUevent_st>> events;
  int64_t host_ns = 0;
  cudaError_t sticky = cudaSuccess;
  cudaError_t last_error_ = cudaSuccess;
  std::string first_fault;
  std::recursive_mutex mutex_;

  std::vector<Failure> injections;
  bool in_host_function = false;  // it must not call the runtime

 private:
  struct Range {
    size_t size_bytes;
    bool owned;
  };
  using Ranges = std::map<uintptr_t, Range>;

  cudaError_t Enter(const char* name);
  static bool Holds(const Ranges& ranges, const void* pointer, size_t size_bytes);
  void StepAny();
  void StepWaiting(CUstream_st& stream);
  uint32_t DrawWeight();
  void KeepRunners(CUstream_st& stream);
  void Step(CUstream_st& stream);
  CUstream_st* Blocker(CUstream_st& stream) const;

  Ranges device_;
  Ranges pinned_;
  int64_t registered_bytes_ = 0;                       // of pinned_
  std::vector<std::unique_ptr<CUstream_st>> streams_;  // [0] is the default stream
  std::vector<std::unique_ptr<BlockRunner>> runners_;  // of streams that are gone: fibers take time to make
  int64_t engine_ns_[static_cast<int>(Engine::kCount)] = {};
  // How work goes on for the next calls.
  uint32_t calls_left_ = 0;
  uint32_t eighths_of_steps_ = 0;   // that are done at a call, on average
  uint32_t percent_of_others_ = 0;  // of the steps while one stream is waited for
};

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_MACHINE_STATE_H_
