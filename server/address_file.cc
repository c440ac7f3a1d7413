#include "server/address_file.h"

#include <unistd.h>

#include <cstdio>

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
  MutexLock lock(mutex_);
  if (const absl::Status status = ReplaceSmallFile(path_, text); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--address_file=", path_, ": ", status.message(),
                                                   "; name a file in a directory that can be written to"));
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
