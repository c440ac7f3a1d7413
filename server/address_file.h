// --address_file: what the daemon bound, for scripts.
#ifndef SPILLWAY_SERVER_ADDRESS_FILE_H_
#define SPILLWAY_SERVER_ADDRESS_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace spillway::server {

// The file is one that WriteAddressFile wrote.
bool IsAddressFile(const std::string& path);
// InvalidArgument when the path is taken by anything else: nothing of the user's is ever overwritten or
// removed.
absl::Status CheckAddressFile(const std::string& path);
// Removes an address file, and nothing else.
void RemoveAddressFile(const std::string& path);

// {"grpc": "127.0.0.1:8090", "metrics": "127.0.0.1:8091", "schema_version": 1}. Written to a file beside it
// and renamed, so that a reader sees all of it or nothing.
absl::Status WriteAddressFile(const std::string& path, const std::string& grpc, const std::string& metrics);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_ADDRESS_FILE_H_
