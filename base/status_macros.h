// Early return on a bad absl::Status. Statuses are moved, never copied: ThreadSanitizer reports false races
// on copies made inside the prebuilt Abseil.
//
//   SPILLWAY_RETURN_IF_ERROR(file.Read(...));
//   SPILLWAY_ASSIGN_OR_RETURN(auto model, LoadModel(path));
#ifndef SPILLWAY_BASE_STATUS_MACROS_H_
#define SPILLWAY_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SPILLWAY_MACRO_CONCAT_INNER(x, y) x##y
#define SPILLWAY_MACRO_CONCAT(x, y) SPILLWAY_MACRO_CONCAT_INNER(x, y)

#define SPILLWAY_RETURN_IF_ERROR(expr)                                                        \
  do {                                                                                        \
    if (absl::Status spillway_status = (expr); !spillway_status.ok()) return spillway_status; \
  } while (false)

#define SPILLWAY_ASSIGN_OR_RETURN(lhs, expr) \
  SPILLWAY_ASSIGN_OR_RETURN_INNER(SPILLWAY_MACRO_CONCAT(spillway_or_, __LINE__), lhs, expr)

#define SPILLWAY_ASSIGN_OR_RETURN_INNER(tmp, lhs, expr) \
  auto tmp = (expr);                                    \
  if (!tmp.ok()) return std::move(tmp).status();        \
  lhs = std::move(tmp).value()

#endif  // SPILLWAY_BASE_STATUS_MACROS_H_
