// CHECK for a programmer's mistake: prints the condition and aborts. What a client, a file, a device or a
// network can cause is an absl::Status instead.
#ifndef SPILLWAY_BASE_CHECK_H_
#define SPILLWAY_BASE_CHECK_H_

namespace spillway {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, const char* message);

}  // namespace spillway

#define SPILLWAY_CHECK(condition) \
  (static_cast<bool>(condition) ? void(0) : ::spillway::CheckFailed(__FILE__, __LINE__, #condition, ""))
#define SPILLWAY_CHECK_MSG(condition, message) \
  (static_cast<bool>(condition) ? void(0) : ::spillway::CheckFailed(__FILE__, __LINE__, #condition, message))

#ifdef NDEBUG
#define SPILLWAY_DCHECK(condition) ((void)sizeof(static_cast<bool>(condition)))
#else
#define SPILLWAY_DCHECK(condition) SPILLWAY_CHECK(condition)
#endif

#endif  // SPILLWAY_BASE_CHECK_H_
