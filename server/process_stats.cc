#include "server/process_stats.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace spillway::server {
namespace {

std::string ReadAll(const char* path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Seconds since the epoch at which the machine booted; -1 if unknown.
double BootUnixSeconds() {
  const std::string text = ReadAll("/proc/stat");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    double seconds = -1;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds)) return seconds;
  }
  return -1;
}

int64_t CountOpenFds() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return -1;
  int64_t count = -1;  // the directory's own descriptor is not counted
  while (const dirent* entry = readdir(directory)) {
    if (entry->d_name[0] != '.') ++count;
  }
  closedir(directory);
  return count;
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats out;
  // proc(5): the second field, the name, may hold anything but ends with the last ')'.
  const std::string stat = ReadAll("/proc/self/stat");
  const size_t name_end = stat.rfind(") ");
  if (name_end != std::string::npos) {
    const std::vector<std::string> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
    // Fields count from 1, and the first here is the third: state.
    const auto field = [&fields](size_t number) {
      double value = -1;
      if (number - 3 >= fields.size() || !absl::SimpleAtod(fields[number - 3], &value)) return -1.0;
      return value;
    };
    const auto ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
    if (field(14) >= 0 && field(15) >= 0) out.cpu_seconds = (field(14) + field(15)) / ticks_per_second;
    if (field(23) >= 0) out.virtual_bytes = static_cast<int64_t>(field(23));
    if (field(24) >= 0) out.resident_bytes = static_cast<int64_t>(field(24)) * sysconf(_SC_PAGESIZE);
    const double boot = BootUnixSeconds();
    if (field(22) >= 0 && boot >= 0) out.start_unix_seconds = boot + field(22) / ticks_per_second;
  }
  out.open_fds = CountOpenFds();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) out.max_fds = static_cast<int64_t>(limit.rlim_cur);
  return out;
}

}  // namespace spillway::server
