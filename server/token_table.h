// TokenTable: what a tokens file says. A value; parsing touches nothing else.
#ifndef SPILLWAY_SERVER_TOKEN_TABLE_H_
#define SPILLWAY_SERVER_TOKEN_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"
#include "server/tenant.h"

namespace spillway::server {

// Bounds on a file: a look at every token costs a few microseconds, and every tenant is a label of metrics.
constexpr size_t kMaxTokens = 4096;
constexpr size_t kMaxTenants = 256;

// Tokens are kept as SHA-256. They are 256 random bits (`spillway token` makes them), so that nothing is
// gained by a slow hash: there is no dictionary to go through, and a digest can be looked up with every call.
struct TokenEntry {
  Sha256Digest digest{};
  std::string tenant;
  bool admin = false;
};

struct TokenTable {
  std::vector<TokenEntry> tokens;
  std::map<std::string, TenantLimits> tenants;  // those that tokens name, all of them
};

// {"schema_version": 1,
//  "tenants": {"acme": {"max_concurrent_requests": 8, "tokens_per_minute": 60000}},
//  "tokens": [{"sha256": "64 hexadecimal digits", "tenant": "acme", "role": "user"}]}
// A tenant without limits need not be listed; `role` is user unless it says admin. InvalidArgument with the
// place and the cause for everything else; unknown names are refused.
absl::StatusOr<TokenTable> ParseTokenTable(absl::string_view json);

// 1 to 64 letters, digits, dots, dashes and underscores: fit for logs, labels and salts.
bool IsTenantName(absl::string_view name);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TOKEN_TABLE_H_
