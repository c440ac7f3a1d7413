#include "server/authorizer.h"

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/reason.h"
#include "base/status_macros.h"

namespace spillway::server {
namespace {

// RFC 6750, section 2.1; the scheme's case does not matter (RFC 9110).
constexpr absl::string_view kScheme = "bearer ";

absl::StatusOr<absl::string_view> TokenOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  if (found == metadata.end()) {
    return MakeError(Reason::kUnauthenticated, "the call shows no token");
  }
  if (metadata.count("authorization") != 1) {
    return MakeError(Reason::kUnauthenticated, "the call shows more than one authorization");
  }
  const absl::string_view value(found->second.data(), found->second.size());
  if (!absl::StartsWithIgnoreCase(value, kScheme)) {
    return MakeError(Reason::kUnauthenticated, "the call's authorization is not a bearer token");
  }
  return value.substr(kScheme.size());
}

}  // namespace

std::string TenantRefused(const absl::Status& why) {
  for (const auto& [name, value] : MetadataOf(why)) {
    if (name == "tenant") return value;
  }
  return "";
}

absl::StatusOr<Caller> Authorizer::Admit(const grpc::CallbackServerContext& context, Access access) const {
  if (tokens_ == nullptr || access == Access::kOpen) return Caller();
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view token, TokenOf(context));
  const TokenFile::Holder holder = tokens_->Find(token);
  if (holder.tenant == nullptr) {
    return MakeError(Reason::kUnauthenticated, "the call's token is not known here");
  }
  Caller caller;
  caller.tenant = holder.tenant;
  if (access == Access::kAdmin) {
    // An operator gets in however busy the tenant is.
    if (holder.admin) return caller;
    return MakeError(Reason::kPermissionDenied, "the call needs a token of role admin",
                     {{"tenant", holder.tenant->name()}});
  }
  SPILLWAY_ASSIGN_OR_RETURN(caller.place, holder.tenant->Enter());
  return caller;
}

}  // namespace spillway::server
