#include "base/bytes.h"

#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace spillway {
namespace {

constexpr std::array<std::pair<absl::string_view, double>, 9> kSuffixes = {{
    {"TiB", 1099511627776.0},
    {"GiB", 1073741824.0},
    {"MiB", 1048576.0},
    {"KiB", 1024.0},
    {"TB", 1e12},
    {"GB", 1e9},
    {"MB", 1e6},
    {"kB", 1e3},
    {"B", 1.0},
}};

}  // namespace

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  absl::string_view number = text;
  double unit_bytes = 1;
  for (const auto& [suffix, bytes] : kSuffixes) {
    if (absl::ConsumeSuffix(&number, suffix)) {
      unit_bytes = bytes;
      break;
    }
  }
  double value = 0;
  if (number.empty() || !absl::SimpleAtod(number, &value) || !std::isfinite(value) || value < 0 ||
      value * unit_bytes >= 4611686018427387904.0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a size; write e.g. 24GiB, 512MiB or 1.5GB"));
  }
  return static_cast<int64_t>(value * unit_bytes);
}

std::string FormatBytes(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  for (int i = 0; i < 4; ++i) {
    if (std::abs(value) >= kSuffixes[i].second) {
      return absl::StrFormat("%.1f %s", value / kSuffixes[i].second, kSuffixes[i].first);
    }
  }
  return absl::StrCat(bytes, " B");
}

std::string FormatExactBytes(int64_t bytes) {
  return absl::StrCat(bytes, " bytes (", FormatBytes(bytes), ")");
}

}  // namespace spillway
