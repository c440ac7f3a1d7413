#include "engine/device/cuda/pci_link.h"

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/small_file.h"

namespace spillway::device::cuda {
namespace {

// The first line of the file; empty where it cannot be read.
std::string FirstLine(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return "";
  return std::string(absl::StripAsciiWhitespace(text->substr(0, text->find('\n'))));
}

std::string FolderOf(absl::string_view bus_id, absl::string_view sysfs) {
  return absl::StrCat(sysfs, "/", absl::AsciiStrToLower(bus_id));
}

// By transfers a second of a lane: 16 GT/s is the fourth.
absl::string_view GenerationOf(double gt_per_s) {
  if (gt_per_s < 2) return "";
  if (gt_per_s < 4) return "1.0";
  if (gt_per_s < 7) return "2.0";
  if (gt_per_s < 15) return "3.0";
  if (gt_per_s < 31) return "4.0";
  if (gt_per_s < 63) return "5.0";
  return "6.0";
}

}  // namespace

std::string DescribePciLink(absl::string_view bus_id, absl::string_view sysfs) {
  const std::string folder = FolderOf(bus_id, sysfs);
  // An idle GPU may have slowed its link down: what it can do is in the max_ files.
  const std::string speed = FirstLine(folder + "/max_link_speed");
  const std::string width = FirstLine(folder + "/max_link_width");
  const absl::string_view generation = GenerationOf(std::atof(speed.c_str()));
  if (generation.empty() || width.empty()) return "";
  return absl::StrCat("PCIe ", generation, " x", width);
}

int32_t NumaNodeOf(absl::string_view bus_id, absl::string_view sysfs) {
  int32_t node = -1;
  if (!absl::SimpleAtoi(FirstLine(FolderOf(bus_id, sysfs) + "/numa_node"), &node) || node < 0) return -1;
  return node;
}

std::string NvidiaDriverVersion(absl::string_view path) {
  // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 ..."
  const std::string line = FirstLine(std::string(path));
  for (const absl::string_view word : absl::StrSplit(line, ' ', absl::SkipEmpty())) {
    if (absl::ascii_isdigit(static_cast<unsigned char>(word.front())) &&
        word.find('.') != absl::string_view::npos && word.find(':') == absl::string_view::npos) {
      return std::string(word);
    }
  }
  return "";
}

}  // namespace spillway::device::cuda
