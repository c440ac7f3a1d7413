#include "server/address_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/small_file.h"
#include "nlohmann/json.hpp"

namespace spillway::server {
namespace {

bool IsAddressFile(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("grpc") && json.contains("metrics") &&
         json.contains("schema_version");
}

}  // namespace

absl::Status AddressFile::Check() const {
  if (path_.empty() || access(path_.c_str(), F_OK) != 0) return absl::OkStatus();
  const absl::StatusOr<std::string> text = ReadSmallFile(path_);
  if (text.ok() && (text->empty() || IsAddressFile(*text))) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--address_file=", path_, ": exists and is not an address file; name another file"));
}

absl::Status AddressFile::Write(const std::string& grpc, const std::string& admin,
                                const std::string& metrics) {
  if (path_.empty()) return absl::OkStatus();
  const nlohmann::json json = {{"grpc", grpc}, {"admin", admin}, {"metrics", metrics}, {"schema_version", 1}};
  const std::string text = absl::StrCat(json.dump(), "\n");
  const std::string beside = absl::StrCat(path_, ".", getpid());
  MutexLock lock(mutex_);
  std::ofstream file(beside);
  file << text;
  file.close();
  if (file.fail() || std::rename(beside.c_str(), path_.c_str()) != 0) {
    const absl::Status status = absl::InvalidArgumentError(
        absl::StrCat("--address_file=", path_, ": cannot be written: ", std::strerror(errno),
                     "; name a file in a directory that can be written to"));
    std::remove(beside.c_str());
    return status;
  }
  written_ = text;
  return absl::OkStatus();
}

void AddressFile::Remove() {
  MutexLock lock(mutex_);
  if (written_.empty()) return;
  const absl::StatusOr<std::string> text = ReadSmallFile(path_);
  if (text.ok() && *text == written_) std::remove(path_.c_str());
  written_.clear();
}

}  // namespace spillway::server
