#include "server/address_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace spillway::server {

absl::Status WriteAddressFile(const std::string& path, const std::string& grpc, const std::string& metrics) {
  const nlohmann::json json = {{"grpc", grpc}, {"metrics", metrics}, {"schema_version", 1}};
  const std::string beside = absl::StrCat(path, ".", getpid());
  std::ofstream file(beside);
  file << json.dump() << "\n";
  file.close();
  if (file.fail() || std::rename(beside.c_str(), path.c_str()) != 0) {
    const absl::Status status = absl::InvalidArgumentError(
        absl::StrCat("--address_file=", path, ": cannot be written: ", std::strerror(errno)));
    std::remove(beside.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace spillway::server
