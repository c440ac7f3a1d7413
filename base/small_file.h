// Small text files: configurations, templates, profiles, address files.
#ifndef SPILLWAY_BASE_SMALL_FILE_H_
#define SPILLWAY_BASE_SMALL_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway {

constexpr int64_t kSmallFileBytes = 1 << 20;

// The whole of a regular file of at most kSmallFileBytes. Anything else (a directory, a pipe, a device, a
// file that cannot be read) is an error that says so, without waiting; the message does not name the path.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

// The file holds `text`, or, where that fails (kUnavailable, without the path), what it held before: readers
// see all of either. It is written beside it, under a name that nobody knows before, and renamed: the folder
// may be one where others can put links. A link in its place is replaced, not followed.
absl::Status ReplaceSmallFile(const std::string& path, absl::string_view text);

}  // namespace spillway

#endif  // SPILLWAY_BASE_SMALL_FILE_H_
