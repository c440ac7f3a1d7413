#include "bench/thread_times.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace spillway::bench {

absl::StatusOr<std::map<std::string, double>> ReadThreadTimes(const std::string& proc_root, int64_t pid) {
  const std::string folder = absl::StrCat(proc_root, "/", pid, "/task");
  std::error_code error;
  std::filesystem::directory_iterator tasks(folder, error);
  if (error) return absl::NotFoundError(absl::StrCat("cannot read ", folder, ": ", error.message()));
  const double tick_s = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  std::map<std::string, double> times;
  for (const auto& task : tasks) {
    std::ifstream file(task.path() / "stat");
    const std::string stat((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    // proc(5): "pid (comm) state ..."; comm may hold spaces and parentheses.
    const size_t open = stat.find('(');
    const size_t close = stat.rfind(')');
    if (open == std::string::npos || close == std::string::npos || close < open) continue;  // ended just now
    const std::vector<std::string> fields = absl::StrSplit(stat.substr(close + 1), ' ', absl::SkipEmpty());
    int64_t user = 0;
    int64_t system = 0;
    if (fields.size() < 13 || !absl::SimpleAtoi(fields[11], &user) ||
        !absl::SimpleAtoi(fields[12], &system)) {
      continue;
    }
    times[stat.substr(open + 1, close - open - 1)] += static_cast<double>(user + system) * tick_s;
  }
  return times;
}

}  // namespace spillway::bench
