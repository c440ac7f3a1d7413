// Small text files that people write: configurations, templates, address files.
#ifndef SPILLWAY_BASE_SMALL_FILE_H_
#define SPILLWAY_BASE_SMALL_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace spillway {

constexpr int64_t kSmallFileBytes = 1 << 20;

// The whole of a regular file of at most kSmallFileBytes. Anything else (a directory, a pipe, a device, a
// file that cannot be read) is an error that says so, without waiting; the message does not name the path.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

}  // namespace spillway

#endif  // SPILLWAY_BASE_SMALL_FILE_H_
