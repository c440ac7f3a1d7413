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

bool IsAddressFile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return false;
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("grpc") && json.contains("metrics") &&
         json.contains("schema_version");
}

absl::Status CheckAddressFile(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0 || IsAddressFile(path)) return absl::OkStatus();
  // As mktemp makes them.
  if (const absl::StatusOr<std::string> text = ReadSmallFile(path); text.ok() && text->empty())
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--address_file=", path, ": exists and is not an address file; name another file"));
}

void RemoveAddressFile(const std::string& path) {
  if (IsAddressFile(path)) std::remove(path.c_str());
}

absl::Status WriteAddressFile(const std::string& path, const std::string& grpc, const std::string& metrics) {
  const nlohmann::json json = {{"grpc", grpc}, {"metrics", metrics}, {"schema_version", 1}};
  const std::string beside = absl::StrCat(path, ".", getpid());
  std::ofstream file(beside);
  file << json.dump() << "\n";
  file.close();
  if (file.fail() || std::rename(beside.c_str(), path.c_str()) != 0) {
    const absl::Status status = absl::InvalidArgumentError(
        absl::StrCat("--address_file=", path, ": cannot be written: ", std::strerror(errno),
                     "; name a file in a directory that can be written to"));
    std::remove(beside.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace spillway::server
