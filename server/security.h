// Security: the files that say whom the daemon trusts and how it shows who it is, looked at every second
// while it serves, so that they can be replaced without a restart.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_SECURITY_H_
#define SPILLWAY_SERVER_SECURITY_H_

#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/security_counts.h"
#include "server/settings.h"
#include "server/tls_files.h"
#include "server/token_file.h"

namespace spillway::server {

class Security {
 public:
  // What the flags name, read and checked: an error, in one line with the file and the cause, where it cannot
  // be used. Files are looked at from then on.
  static absl::StatusOr<std::unique_ptr<Security>> Load(const Settings& settings);
  ~Security();
  Security(const Security&) = delete;
  Security& operator=(const Security&) = delete;

  // Null: connections are in plain text.
  const TlsFiles* tls() const { return tls_.get(); }
  // Null: nobody is asked for a token.
  TokenFile* tokens() const { return tokens_.get(); }
  SecurityCounts Counts() const;
  // Says in the log what anybody who reaches the ports may do, where that may be more than was meant.
  void WarnOfExposure(const Settings& settings) const;

 private:
  Security() = default;
  void Work();

  std::unique_ptr<TlsFiles> tls_;
  std::unique_ptr<TokenFile> tokens_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SECURITY_H_
