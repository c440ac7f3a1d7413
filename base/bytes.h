// Sizes as people write them: "24GiB", "512MiB", "1.5GB", "4096".
#ifndef SPILLWAY_BASE_BYTES_H_
#define SPILLWAY_BASE_BYTES_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway {

constexpr int64_t kKiB = int64_t{1} << 10;
constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;

// Accepts B, KiB, MiB, GiB, TiB (powers of 1024) and kB, MB, GB, TB (powers of 1000), with a decimal
// fraction; a plain number is bytes. Negative, NaN and sizes of 2^62 and more are InvalidArgument.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// "23.5 GiB", "512.0 MiB", "17 B".
std::string FormatBytes(int64_t bytes);
// A number that is to be used as it is printed: "25232932045 bytes (23.5 GiB)".
std::string FormatExactBytes(int64_t bytes);

}  // namespace spillway

#endif  // SPILLWAY_BASE_BYTES_H_
