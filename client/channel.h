// Channel: how a daemon is spoken to - TLS or plain text, a token with every call - from what the options
// say.
#ifndef SPILLWAY_CLIENT_CHANNEL_H_
#define SPILLWAY_CLIENT_CHANNEL_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/connection.h"
#include "grpcpp/channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace spillway::client {

// What the options' files hold. The default: plain text, and nothing with the calls.
struct Access {
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null: plain text
  std::string server_name;                                // that the certificate must have; empty: as called
  // Sent with every call: "authorization", "traceparent".
  std::vector<std::pair<std::string, std::string>> metadata;
};

// Reads the files. InvalidArgument, with the flag and the cause, where one cannot be used, and where a token
// would leave this machine in plain text.
absl::StatusOr<Access> ReadAccess(const ConnectionOptions& options);

// What OpenChannel sets; for channels that need more.
grpc::ChannelArguments DefaultChannelArguments(absl::string_view server);

// Connects with the first call.
std::shared_ptr<grpc::Channel> OpenChannel(absl::string_view server, const Access& access,
                                           grpc::ChannelArguments arguments);
inline std::shared_ptr<grpc::Channel> OpenChannel(absl::string_view server, const Access& access) {
  return OpenChannel(server, access, DefaultChannelArguments(server));
}
// A channel without limits on what it receives (a reply with log probabilities of a long completion is
// large) and without an HTTP proxy to a daemon on this machine.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const ConnectionOptions& options);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_CHANNEL_H_
