// A fiber: a stack of execution that gives way only where it says so. Switching costs a few nanoseconds:
// ucontext makes two system calls a switch, and Debian's Boost.Context would be one more package for thirty
// lines of assembly; the machine is x86-64 anyway. AddressSanitizer is told of every switch, and
// ThreadSanitizer takes fibers for threads that nothing orders but TsanRelease and TsanAcquire.
//
// Thread-compatible: fibers that switch among each other belong to one thread at a time.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_FIBER_H_
#define SPILLWAY_TESTS_FAKES_CUDA_FIBER_H_

#include <cstddef>

namespace spillway::fakes::cuda {

// What a fiber did before a release is ordered before what another does after an acquire of the same address,
// for ThreadSanitizer; without it these do nothing.
void TsanRelease(void* address);
void TsanAcquire(void* address);
// Accesses that ThreadSanitizer would not see by itself.
void TsanRead(const void* address, size_t size_bytes);
void TsanWrite(void* address, size_t size_bytes);

// A thread for ThreadSanitizer that has no stack of its own: what is done between Enter and Leave is done by
// it, and ordered behind what others do only as releases and acquires say. Of its accesses those alone count
// that are told: the rest is the emulator's, on the stack of another thread.
class TsanContext {
 public:
  TsanContext();
  ~TsanContext();
  TsanContext(const TsanContext&) = delete;
  TsanContext& operator=(const TsanContext&) = delete;

  void Enter();
  void Leave();
  // REQUIRES: in a context.
  static void Read(const void* address, size_t size_bytes);
  static void Write(void* address, size_t size_bytes);

 private:
  void* self_ = nullptr;
  void* entered_from_ = nullptr;
};

class Fiber {
 public:
  // The thread that calls, on the stack that it has.
  Fiber();
  // A stack of its own, on which `entry(argument)` runs at the first switch to it. `entry` never returns.
  Fiber(void (*entry)(void*), void* argument);
  // What still lies on the stack is abandoned, not destroyed. REQUIRES: it is not running.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs `next` until something switches back. REQUIRES: this fiber is the one that runs.
  void SwitchTo(Fiber& next);

 private:
  static void Main(Fiber* self);
  void Arrive();

  void* stack_pointer_ = nullptr;
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  char* mapping_ = nullptr;             // with a guard page below; null: the thread's own stack
  const void* stack_bottom_ = nullptr;  // what AddressSanitizer wants to know
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;
  void* tsan_fiber_ = nullptr;
  Fiber* came_from_ = nullptr;  // who switched to this fiber last
};

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_FIBER_H_
