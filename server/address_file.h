// --address_file: what the daemon bound, for scripts.
#ifndef SPILLWAY_SERVER_ADDRESS_FILE_H_
#define SPILLWAY_SERVER_ADDRESS_FILE_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace spillway::server {

// {"grpc": "127.0.0.1:8090", "admin": "127.0.0.1:8090", "metrics": "127.0.0.1:8091", "schema_version": 1};
// admin, where AdminService is, differs from grpc where it has a port of its own. Nothing of the user's is
// ever overwritten or removed, and nothing of another daemon's is removed. Thread-safe.
class AddressFile {
 public:
  // An empty path: there is no file, and everything succeeds.
  explicit AddressFile(std::string path) : path_(std::move(path)) {}
  ~AddressFile() { Remove(); }
  AddressFile(const AddressFile&) = delete;
  AddressFile& operator=(const AddressFile&) = delete;

  // InvalidArgument when the path is taken by anything but an address file or an empty one (as mktemp makes
  // them).
  absl::Status Check() const;
  // A reader sees all of it or nothing.
  absl::Status Write(const std::string& grpc, const std::string& admin, const std::string& metrics);
  // What Write wrote, if it is still there.
  void Remove();

 private:
  const std::string path_;
  Mutex mutex_;
  std::string written_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_ADDRESS_FILE_H_
