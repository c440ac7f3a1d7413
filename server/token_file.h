// TokenFile: the tokens that may be shown to the daemon, and their tenants - read at start, read again while
// it serves, and replaced where the new file is good.
//
// Reload: one thread at a time. Everything else is thread-safe.
#ifndef SPILLWAY_SERVER_TOKEN_FILE_H_
#define SPILLWAY_SERVER_TOKEN_FILE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "server/reload_record.h"
#include "server/tenant.h"
#include "server/token_table.h"

namespace spillway::server {

class TokenFile {
 public:
  // Whom a token belongs to. Null: to nobody.
  struct Holder {
    std::shared_ptr<Tenant> tenant;
    bool admin = false;
  };

  // InvalidArgument with the file, the place and the cause.
  static absl::StatusOr<std::unique_ptr<TokenFile>> Load(const std::string& path);

  // Looks at the file. One that changed and is good is in effect with the next call: calls that run go on,
  // and tenants keep what they have spent. Another is refused: what was in effect stays, the log says why,
  // once.
  void Reload();

  // Compares with every token, in a time that depends on their number alone.
  Holder Find(absl::string_view token) const;
  // A request of the tenant has generated so many tokens; of one that is gone nothing is kept.
  void Pay(const std::string& tenant, int64_t generated_tokens, MonotonicNs now_ns);
  ReloadCounts counts() const { return record_.counts(); }

 private:
  struct InEffect {
    std::vector<Sha256Digest> digests;
    std::vector<Holder> holders;  // of these
    std::map<std::string, std::shared_ptr<Tenant>> tenants;
  };

  explicit TokenFile(std::string path) : path_(std::move(path)) {}
  absl::StatusOr<std::string> Read() const;
  absl::StatusOr<TokenTable> Check(const std::string& text) const;
  void Take(const TokenTable& table);
  void Refuse(const absl::Status& why);
  std::shared_ptr<const InEffect> current() const;

  const std::string path_;
  ReloadRecord record_;
  std::string text_;  // of Reload: what is in effect
  mutable Mutex mutex_;
  std::shared_ptr<const InEffect> current_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TOKEN_FILE_H_
