#include "tests/fakes/cuda/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SPILLWAY_SANITIZE_THREAD  // this file itself is not instrumented
#include <sanitizer/tsan_interface.h>
// What the compiler calls; the interface's header does not have them.
extern "C" void __tsan_read_range(void* address, size_t size_bytes);
extern "C" void __tsan_write_range(void* address, size_t size_bytes);
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();
#endif

// void SpillwaySwitchStack(void** save, void* load): keeps the registers that a call preserves (System V
// ABI, x86-64) on this stack, and takes those of the other. The thunk starts a new stack: rbx is the
// argument, r12 the function.
asm(R"(
.text
.p2align 4
.type SpillwaySwitchStack, @function
SpillwaySwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size SpillwaySwitchStack, .-SpillwaySwitchStack
.p2align 4
.type SpillwayStartStack, @function
SpillwayStartStack:
  movq %rbx, %rdi
  callq *%r12
  ud2
.size SpillwayStartStack, .-SpillwayStartStack
)");

extern "C" {
void SpillwaySwitchStack(void** save, void* load);
void SpillwayStartStack();
}

namespace spillway::fakes::cuda {
namespace {

constexpr size_t kPageBytes = 4096;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 << 10;  // red zones
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

}  // namespace

#ifdef SPILLWAY_SANITIZE_THREAD

void TsanRelease(void* address) { __tsan_release(address); }
void TsanAcquire(void* address) { __tsan_acquire(address); }
void TsanRead(const void* address, size_t size_bytes) {
  __tsan_read_range(const_cast<void*>(address), size_bytes);
}
void TsanWrite(void* address, size_t size_bytes) { __tsan_write_range(address, size_bytes); }

TsanContext::TsanContext() : self_(__tsan_create_fiber(0)) {}
TsanContext::~TsanContext() { __tsan_destroy_fiber(self_); }
void TsanContext::Enter() {
  entered_from_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(self_, __tsan_switch_to_fiber_no_sync);
  __tsan_ignore_thread_begin();
}
void TsanContext::Leave() {
  __tsan_ignore_thread_end();
  __tsan_switch_to_fiber(entered_from_, __tsan_switch_to_fiber_no_sync);
}
void TsanContext::Read(const void* address, size_t size_bytes) {
  __tsan_ignore_thread_end();
  TsanRead(address, size_bytes);
  __tsan_ignore_thread_begin();
}
void TsanContext::Write(void* address, size_t size_bytes) {
  __tsan_ignore_thread_end();
  TsanWrite(address, size_bytes);
  __tsan_ignore_thread_begin();
}

#else

void TsanRelease(void* /*address*/) {}
void TsanAcquire(void* /*address*/) {}
void TsanRead(const void* /*address*/, size_t /*size_bytes*/) {}
void TsanWrite(void* /*address*/, size_t /*size_bytes*/) {}

TsanContext::TsanContext() = default;
TsanContext::~TsanContext() = default;
void TsanContext::Enter() {}
void TsanContext::Leave() {}
void TsanContext::Read(const void* /*address*/, size_t /*size_bytes*/) {}
void TsanContext::Write(void* /*address*/, size_t /*size_bytes*/) {}

#endif

Fiber::Fiber() = default;

Fiber::Fiber(void (*entry)(void*), void* argument) : entry_(entry), argument_(argument) {
  void* mapping = mmap(nullptr, kPageBytes + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, kPageBytes, PROT_NONE) != 0) {
    std::perror("the stack of a fiber");
    std::abort();
  }
  mapping_ = static_cast<char*>(mapping);
  stack_bottom_ = mapping_ + kPageBytes;
  stack_bytes_ = kStackBytes;
  // What SpillwaySwitchStack pops: r15, r14, r13, r12, rbx, rbp, return address. The thunk is entered with
  // a stack aligned to 16 bytes, as its call needs.
  auto* top = reinterpret_cast<uint64_t*>(mapping_ + kPageBytes + kStackBytes);
  uint64_t* frame = top - 9;
  frame[0] = frame[1] = frame[2] = 0;
  frame[3] = reinterpret_cast<uint64_t>(&Fiber::Main);
  frame[4] = reinterpret_cast<uint64_t>(this);
  frame[5] = 0;
  frame[6] = reinterpret_cast<uint64_t>(&SpillwayStartStack);
  frame[7] = 0;
  stack_pointer_ = frame;
#ifdef SPILLWAY_SANITIZE_THREAD
  tsan_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (mapping_ == nullptr) return;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_bottom_, stack_bytes_);
#endif
#ifdef SPILLWAY_SANITIZE_THREAD
  __tsan_destroy_fiber(tsan_fiber_);
#endif
  munmap(mapping_, kPageBytes + kStackBytes);
}

void Fiber::Main(Fiber* self) {
  self->Arrive();
  self->entry_(self->argument_);
  std::fputs("a fiber's entry returned\n", stderr);
  std::abort();
}

void Fiber::Arrive() {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &bytes);
  came_from_->stack_bottom_ = bottom;
  came_from_->stack_bytes_ = bytes;
#endif
}

void Fiber::SwitchTo(Fiber& next) {
  next.came_from_ = this;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_stack_, next.stack_bottom_, next.stack_bytes_);
#endif
#ifdef SPILLWAY_SANITIZE_THREAD
  if (mapping_ == nullptr) tsan_fiber_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(next.tsan_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
  SpillwaySwitchStack(&stack_pointer_, next.stack_pointer_);
  Arrive();
}

}  // namespace spillway::fakes::cuda
