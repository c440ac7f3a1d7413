#include "client/channel.h"

#include <arpa/inet.h>

#include <cstdlib>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/small_file.h"
#include "base/status_macros.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/client_interceptor.h"

namespace spillway::client {
namespace {

using grpc::experimental::ClientInterceptorFactoryInterface;
using grpc::experimental::ClientRpcInfo;
using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::Interceptor;
using grpc::experimental::InterceptorBatchMethods;

// By what it says alone: a name that begins as an address does is anybody's.
bool IsOnThisMachine(absl::string_view server) {
  if (absl::StartsWith(server, "unix:")) return true;
  const std::string host(server.substr(0, server.rfind(':')));
  in_addr address{};
  return host == "localhost" || host == "[::1]" ||
         (inet_pton(AF_INET, host.c_str(), &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

using Metadata = std::vector<std::pair<std::string, std::string>>;

// gRPC's own call credentials want TLS, which a daemon on this machine does without.
class MetadataInterceptor final : public Interceptor {
 public:
  explicit MetadataInterceptor(const Metadata& metadata) : metadata_(metadata) {}

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      for (const auto& [name, value] : metadata_) {
        methods->GetSendInitialMetadata()->insert({name, value});
      }
    }
    methods->Proceed();
  }

 private:
  const Metadata& metadata_;
};

class MetadataInterceptorFactory final : public ClientInterceptorFactoryInterface {
 public:
  explicit MetadataInterceptorFactory(Metadata metadata) : metadata_(std::move(metadata)) {}
  Interceptor* CreateClientInterceptor(ClientRpcInfo* /*info*/) override {
    return new MetadataInterceptor(metadata_);
  }

 private:
  const Metadata metadata_;
};

absl::Status About(absl::string_view flag, const std::string& path, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", path, ": ", status.message()));
}

// Of a flag that may be unset.
absl::StatusOr<std::string> ReadOptional(absl::string_view flag, const std::string& path) {
  if (path.empty()) return std::string();
  absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return About(flag, path, text.status());
  return text;
}

absl::StatusOr<std::string> ReadToken(const ConnectionOptions& options) {
  std::string token = options.token;
  if (!options.token_file.empty()) {
    SPILLWAY_ASSIGN_OR_RETURN(token, ReadOptional("token_file", options.token_file));
    absl::StripAsciiWhitespace(&token);
    if (token.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--token_file=", options.token_file, ": is empty"));
    }
  }
  for (const char c : token) {
    if (c <= ' ' || c > '~')
      return absl::InvalidArgumentError("the token is not one line of printable characters");
  }
  return token;
}

}  // namespace

absl::StatusOr<Access> ReadAccess(const ConnectionOptions& options) {
  Access access;
  if (options.tls_client_certificate.empty() != options.tls_client_key.empty()) {
    return absl::InvalidArgumentError(
        "--tls_client_certificate and --tls_client_key belong together; give both, or neither");
  }
  const bool tls = options.tls || !options.tls_ca.empty() || !options.tls_client_certificate.empty() ||
                   !options.tls_server_name.empty();
  if (tls) {
    grpc::SslCredentialsOptions ssl;
    SPILLWAY_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadOptional("tls_ca", options.tls_ca));
    SPILLWAY_ASSIGN_OR_RETURN(ssl.pem_cert_chain,
                              ReadOptional("tls_client_certificate", options.tls_client_certificate));
    SPILLWAY_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadOptional("tls_client_key", options.tls_client_key));
    access.credentials = grpc::SslCredentials(ssl);
    access.server_name = options.tls_server_name;
  }
  SPILLWAY_ASSIGN_OR_RETURN(const std::string token, ReadToken(options));
  if (!token.empty()) {
    if (!tls && !IsOnThisMachine(options.server) && !options.plain_token) {
      return absl::InvalidArgumentError(
          absl::StrCat("the token would go to ", options.server,
                       " in plain text; use --tls or --tls_ca=FILE (or --plain_token, where something else "
                       "encrypts the way)"));
    }
    access.metadata.emplace_back("authorization", absl::StrCat("Bearer ", token));
  }
  if (!options.traceparent.empty()) access.metadata.emplace_back("traceparent", options.traceparent);
  return access;
}

grpc::ChannelArguments DefaultChannelArguments(absl::string_view server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  if (IsOnThisMachine(server)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A daemon that vanished without a word must not be waited for; docs/api.md allows these pings.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // A person who starts the daemon and repeats the command should not wait out a minute of back-off.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  return arguments;
}

std::shared_ptr<grpc::Channel> OpenChannel(absl::string_view server, const Access& access,
                                           grpc::ChannelArguments arguments) {
  const auto credentials =
      access.credentials == nullptr ? grpc::InsecureChannelCredentials() : access.credentials;
  if (!access.server_name.empty()) arguments.SetSslTargetNameOverride(access.server_name);
  if (access.metadata.empty()) return grpc::CreateCustomChannel(std::string(server), credentials, arguments);
  std::vector<std::unique_ptr<ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<MetadataInterceptorFactory>(access.metadata));
  return grpc::experimental::CreateCustomChannelWithInterceptors(std::string(server), credentials, arguments,
                                                                 std::move(interceptors));
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const ConnectionOptions& options) {
  SPILLWAY_ASSIGN_OR_RETURN(const Access access, ReadAccess(options));
  return OpenChannel(options.server, access);
}

}  // namespace spillway::client
