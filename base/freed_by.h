// FreedBy: a deleter that calls a C library's function, for std::unique_ptr.
#ifndef SPILLWAY_BASE_FREED_BY_H_
#define SPILLWAY_BASE_FREED_BY_H_

namespace spillway {

template <auto Free>
struct FreedBy {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};

}  // namespace spillway

#endif  // SPILLWAY_BASE_FREED_BY_H_
