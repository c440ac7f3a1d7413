// TlsFiles: the certificate, the key and the client CA that connections are made with - read and checked at
// start, read again while the daemon serves, and replaced where the new ones are good.
//
// Reload: one thread at a time. Everything else is thread-safe.
#ifndef SPILLWAY_SERVER_TLS_FILES_H_
#define SPILLWAY_SERVER_TLS_FILES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/certificates.h"
#include "server/reload_record.h"

namespace spillway::server {

struct TlsPaths {
  std::string certificate;  // PEM: the server's own, then those that lead to its root
  std::string key;
  std::string client_ca = {};  // empty: clients need no certificate
};

// A set that was found good. PEM texts.
struct TlsMaterial {
  std::string certificate;
  std::string key;
  std::string client_ca;
  ServerChain chain;
  std::optional<int64_t> client_ca_expiry_s;  // of the CA that expires first
  int64_t generation = 0;                     // grows with every set that is taken
};

class TlsFiles {
 public:
  // The time of day, for tests.
  using UnixClock = std::function<int64_t()>;

  // Invalid argument, with the flag, the file and the cause, where nobody could be served with them.
  static absl::StatusOr<std::unique_ptr<TlsFiles>> Load(const TlsPaths& paths, UnixClock now_unix_s = {});

  // Looks at the files. Ones that changed and are good are in effect with the next handshake; connections
  // stay as they are. Ones that are not, and stay so until the next look (a pair is two files, which may be
  // seen half replaced), are refused: what was in effect stays, the log says why, once.
  void Reload();

  std::shared_ptr<const TlsMaterial> current() const;
  bool wants_client_certificates() const { return !paths_.client_ca.empty(); }
  ReloadCounts counts() const { return record_.counts(); }

 private:
  struct Texts {
    std::string certificate;
    std::string key;
    std::string client_ca;
    bool operator==(const Texts&) const = default;
  };

  TlsFiles(TlsPaths paths, UnixClock now_unix_s);
  absl::StatusOr<Texts> Read() const;
  absl::StatusOr<TlsMaterial> Check(const Texts& texts) const;
  void LookForNew();
  void Take(TlsMaterial material);
  void Refuse(const absl::Status& why);
  // Once for each set: a week before its end, and at it.
  void WarnOfExpiry();

  const TlsPaths paths_;
  const UnixClock now_unix_s_;
  ReloadRecord record_;
  // Of Reload.
  int64_t warned_expiring_ = 0;  // generation
  int64_t warned_expired_ = 0;
  mutable Mutex mutex_;
  std::shared_ptr<const TlsMaterial> current_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TLS_FILES_H_
