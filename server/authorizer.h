// Authorizer: who makes a call, by the token that it shows, and whether they may.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_AUTHORIZER_H_
#define SPILLWAY_SERVER_AUTHORIZER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "server/tenant.h"
#include "server/token_file.h"

namespace spillway::server {

// Who may make a service's calls, where there are tokens.
enum class Access : uint8_t {
  kOpen,   // whoever can connect
  kUser,   // who shows a token; the call takes one of its tenant's places
  kAdmin,  // who shows a token of role admin
};

// Who makes a call. The call keeps the place until its end is told to the client.
struct Caller {
  std::shared_ptr<Tenant> tenant;  // null: nobody was asked for a token
  Tenant::Place place;
};

// Of a refusal by Admit: the tenant whose token was shown; empty where none was that is known.
std::string TenantRefused(const absl::Status& why);

class Authorizer {
 public:
  // Null: there are no tokens, and everybody may do everything. Outlives the authorizer.
  explicit Authorizer(const TokenFile* tokens) : tokens_(tokens) {}

  // kUnauthenticated where no token is shown, or none that is known; kPermissionDenied where its role is not
  // enough; kTenantRequests.
  absl::StatusOr<Caller> Admit(const grpc::CallbackServerContext& context, Access access) const;

 private:
  const TokenFile* const tokens_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_AUTHORIZER_H_
