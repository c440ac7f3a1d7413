#include "engine/kv/memory_budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/bytes.h"

namespace spillway::kv {
namespace {

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number in a file that holds one; nothing for "max" or no file.
std::optional<int64_t> ReadNumber(const std::string& path) {
  const std::optional<std::string> text = ReadFile(path);
  int64_t value = 0;
  if (!text || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &value)) return std::nullopt;
  return value;
}

// The value of a line "<key><spaces><number>..." of /proc/meminfo or memory.stat.
std::optional<int64_t> FindField(absl::string_view text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, key)) continue;
    if (line.empty() || !absl::ascii_isspace(static_cast<unsigned char>(line.front()))) continue;
    line = absl::StripLeadingAsciiWhitespace(line);
    int64_t value = 0;
    if (absl::SimpleAtoi(line.substr(0, line.find(' ')), &value)) return value;
  }
  return std::nullopt;
}

// How the two versions of control groups name the same things.
struct CgroupFiles {
  absl::string_view version;
  absl::string_view limit;
  absl::string_view usage;
  absl::string_view active_file;  // page cache, in memory.stat; shared memory is not part of it
  absl::string_view inactive_file;
};
constexpr CgroupFiles kV1 = {"cgroup v1", "memory.limit_in_bytes", "memory.usage_in_bytes",
                             "total_active_file", "total_inactive_file"};
constexpr CgroupFiles kV2 = {"cgroup v2", "memory.max", "memory.current", "active_file", "inactive_file"};

// Lowers `budget` to what the group at `path` below `mount` and its ancestors leave. A path that is not there
// (seen from outside of a container) is passed over; the mount's root, which is the container's own group, is
// always looked at.
void ApplyCgroup(const CgroupFiles& files, const std::string& mount, std::string path, MemoryBudget& budget) {
  while (true) {
    if (path == "/") path.clear();
    const std::string folder = mount + path;
    const std::optional<int64_t> limit = ReadNumber(absl::StrCat(folder, "/", files.limit));
    const std::optional<int64_t> usage = ReadNumber(absl::StrCat(folder, "/", files.usage));
    // An unlimited v1 group says a number near 2^63.
    if (limit && usage && *limit < budget.total_bytes) budget.total_bytes = *limit;
    if (limit && usage) {
      const std::string stat = ReadFile(folder + "/memory.stat").value_or("");
      const int64_t page_cache =
          FindField(stat, files.active_file).value_or(0) + FindField(stat, files.inactive_file).value_or(0);
      const int64_t available = std::max<int64_t>(0, *limit - std::max<int64_t>(0, *usage - page_cache));
      if (available < budget.available_bytes) {
        budget.available_bytes = available;
        budget.source = absl::StrCat(files.version, " ", path.empty() ? "/" : path);
      }
    }
    if (path.empty()) return;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace

MemoryBudget ReadMemoryBudget(absl::string_view root_dir) {
  const std::string root(absl::StripSuffix(root_dir, "/"));
  MemoryBudget budget;
  const std::optional<std::string> meminfo = ReadFile(root + "/proc/meminfo");
  if (!meminfo) return budget;
  const std::optional<int64_t> total_kib = FindField(*meminfo, "MemTotal:");
  const std::optional<int64_t> available_kib = FindField(*meminfo, "MemAvailable:");
  if (!total_kib || !available_kib) return budget;
  budget.total_bytes = *total_kib * kKiB;
  budget.available_bytes = *available_kib * kKiB;
  budget.source = "MemAvailable";

  // Lines are "<id>:<controllers>:<path>"; version 2 has id 0 and no controllers.
  const std::string groups = ReadFile(root + "/proc/self/cgroup").value_or("");
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::string path(parts[2]);
    if (parts[0] == "0" && parts[1].empty()) {
      ApplyCgroup(kV2, root + "/sys/fs/cgroup", path, budget);
      ApplyCgroup(kV2, root + "/sys/fs/cgroup/unified", path, budget);
      continue;
    }
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), "memory") != controllers.end()) {
      ApplyCgroup(kV1, root + "/sys/fs/cgroup/memory", path, budget);
    }
  }
  return budget;
}

int64_t SuggestedPoolBytes(const MemoryBudget& budget, const Geometry& geometry, int64_t context_tokens,
                           int64_t max_sequences) {
  const int64_t reserve_bytes = std::max<int64_t>(4 * kGiB, budget.total_bytes / 10);
  const int64_t affordable_bytes =
      std::max(budget.available_bytes - reserve_bytes, budget.available_bytes / 4);
  const int64_t useful_blocks = geometry.blocks_for(context_tokens) * max_sequences;
  return std::min(affordable_bytes, useful_blocks * geometry.block_bytes(Form::kKv));
}

}  // namespace spillway::kv
