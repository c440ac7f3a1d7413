// Marks code of third parties that allocates whenever it runs (oneDNN keeps books of each execution on the
// heap), so that a test that counts allocations can tell them from our own, of which a step makes none.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_ALLOCATION_SCOPE_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_ALLOCATION_SCOPE_H_

namespace spillway::device {

class ThirdPartyAllocationScope {
 public:
  ThirdPartyAllocationScope() { ++depth_; }
  ~ThirdPartyAllocationScope() { --depth_; }
  ThirdPartyAllocationScope(const ThirdPartyAllocationScope&) = delete;
  ThirdPartyAllocationScope& operator=(const ThirdPartyAllocationScope&) = delete;

  // Whether the calling thread is inside such a scope. The threads that a third party starts are not.
  static bool Active() { return depth_ > 0; }

 private:
  static inline thread_local int depth_ = 0;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_ALLOCATION_SCOPE_H_
