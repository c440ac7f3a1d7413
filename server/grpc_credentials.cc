#include "server/grpc_credentials.h"

#include <string>
#include <vector>

#include "base/check.h"
#include "grpc/grpc.h"
#include "grpc/grpc_security.h"

namespace spillway::server {
namespace {

// gRPC's C++ interface knows certificates that never change, and files that it watches itself, of which it
// tells nobody whether they are good. Its C interface asks at every handshake, which is what is wanted here.
class ReloadingCredentials final : public grpc::ServerCredentials {
 public:
  explicit ReloadingCredentials(const TlsFiles& files) : files_(files) {}

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {
    SPILLWAY_CHECK_MSG(false, "calls are authenticated by the services");
  }

 private:
  // What one port was given last. gRPC asks under a lock of the port's.
  struct Port {
    const TlsFiles& files;
    int64_t generation = 0;
  };

  int AddPortToServer(const std::string& address, grpc_server* server) override {
    Port& port = *ports_.emplace_back(std::make_unique<Port>(Port{files_}));
    const auto request = files_.wants_client_certificates()
                             ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                             : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
    grpc_server_credentials* const credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(request, &Fetch, &port));
    const int bound = grpc_server_add_http2_port(server, address.c_str(), credentials);
    grpc_server_credentials_release(credentials);
    return bound;
  }

  static grpc_ssl_certificate_config_reload_status Fetch(void* user_data,
                                                         grpc_ssl_server_certificate_config** config) {
    Port& port = *static_cast<Port*>(user_data);
    const std::shared_ptr<const TlsMaterial> current = port.files.current();
    if (current->generation == port.generation) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    port.generation = current->generation;
    const grpc_ssl_pem_key_cert_pair pair = {current->key.c_str(), current->certificate.c_str()};
    // gRPC 1.51 insists on authorities here; where no client is asked for a certificate nobody looks at them.
    const std::string& authorities = current->client_ca.empty() ? current->certificate : current->client_ca;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const TlsFiles& files_;
  std::vector<std::unique_ptr<Port>> ports_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const TlsFiles* tls) {
  if (tls == nullptr) return grpc::InsecureServerCredentials();
  return std::make_shared<ReloadingCredentials>(*tls);
}

}  // namespace spillway::server
