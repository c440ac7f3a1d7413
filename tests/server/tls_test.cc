// The gRPC ports with TLS: who is let in, who is not, and what replacing the files does to whom.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "server/tls_files.h"
#include "tests/fakes/certificates.h"
#include "tests/server/harness.h"
#include "tests/server/raw_client.h"

namespace spillway::server {
namespace {

using fakes::PemPair;
using grpc::StatusCode;

class TlsTest : public testing::Test {
 protected:
  TlsTest() {
    const std::string base = testing::TempDir() + std::to_string(getpid()) + "_server_tls_";
    paths_ = {base + "certificate.pem", base + "key.pem"};
    client_ca_ = base + "ca.pem";
    Write(authority_.Issue());
    std::ofstream(client_ca_) << authority_.certificate();
  }
  ~TlsTest() override {
    server_.reset();
    for (const std::string& path : {paths_.certificate, paths_.key, client_ca_}) std::remove(path.c_str());
  }

  void Write(const PemPair& pair) {
    std::ofstream(paths_.certificate) << pair.certificate;
    std::ofstream(paths_.key) << pair.key;
  }

  void Serve(bool mutual) {
    if (mutual) paths_.client_ca = client_ca_;
    auto files = TlsFiles::Load(paths_);
    ASSERT_TRUE(files.ok()) << files.status();
    files_ = *std::move(files);
    TestServerOptions options = RoomForLongOnes();
    options.admin_listen = "127.0.0.1:0";
    options.tls = files_.get();
    server_ = std::make_unique<TestServer>(options);
  }

  // A channel that trusts `authority` and shows `pair`.
  std::shared_ptr<grpc::Channel> Connect(const std::string& authority, const PemPair& pair = {},
                                         std::string address = {}) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = authority;
    ssl.pem_cert_chain = pair.certificate;
    ssl.pem_private_key = pair.key;
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (address.empty()) address = server_->server->address();
    return grpc::CreateCustomChannel(address, grpc::SslCredentials(ssl), arguments);
  }

  static StatusCode Call(const std::shared_ptr<grpc::Channel>& channel) {
    v1::CompleteResponse response;
    return v1::InferenceService::NewStub(channel)
        ->Complete(NewContext().get(), TextRequest("x", 2), &response)
        .error_code();
  }

  fakes::TestAuthority authority_;
  TlsPaths paths_;
  std::string client_ca_;
  std::unique_ptr<TlsFiles> files_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(TlsTest, BothPortsSpeakItToWhoeverTrustsTheAuthority) {
  Serve(/*mutual=*/false);
  EXPECT_EQ(Call(Connect(authority_.certificate())), StatusCode::OK);
  v1::GetStatusResponse status;
  const auto admin = Connect(authority_.certificate(), {}, server_->server->admin_address());
  EXPECT_TRUE(v1::AdminService::NewStub(admin)->GetStatus(NewContext().get(), {}, &status).ok());
  const fakes::TestAuthority stranger("stranger");
  EXPECT_EQ(Call(Connect(stranger.certificate())), StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, PlainTextGetsNoAnswerAndDisturbsNobody) {
  Serve(/*mutual=*/false);
  const auto good = Connect(authority_.certificate());
  EXPECT_EQ(Call(server_->Connect()), StatusCode::UNAVAILABLE);
  const Listener::Descriptor raw = ConnectTo(server_->server->address());
  constexpr absl::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  EXPECT_EQ(send(raw.get(), kPreface.data(), kPreface.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(kPreface.size()));
  char byte = 0;
  ssize_t got = 0;
  while ((got = recv(raw.get(), &byte, 1, 0)) > 0) {
  }
  EXPECT_FALSE(got < 0 && errno == EAGAIN) << "it is closed, not left open";
  EXPECT_EQ(Call(good), StatusCode::OK);
  EXPECT_EQ(Call(server_->Connect()), StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, MutualTlsLetsInWhomTheAuthoritySigned) {
  Serve(/*mutual=*/true);
  fakes::TestAuthority stranger("stranger");
  const std::string& trusted = authority_.certificate();
  EXPECT_EQ(Call(Connect(trusted, authority_.Issue({.name = "alice"}))), StatusCode::OK);
  EXPECT_EQ(Call(Connect(trusted)), StatusCode::UNAVAILABLE) << "no certificate";
  EXPECT_EQ(Call(Connect(trusted, stranger.Issue({.name = "mallory"}))), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(Connect(trusted, authority_.Issue({.name = "old", .ends_s = -60}))),
            StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(Connect(trusted, authority_.Issue({.name = "early", .begins_s = 600}))),
            StatusCode::UNAVAILABLE);
  v1::GetStatusResponse status;
  const auto admin = Connect(trusted, {}, server_->server->admin_address());
  EXPECT_FALSE(v1::AdminService::NewStub(admin)->GetStatus(NewContext().get(), {}, &status).ok());
  EXPECT_EQ(Call(Connect(trusted, authority_.Issue({.name = "alice"}))), StatusCode::OK);
}

TEST_F(TlsTest, NewConnectionsUseNewFilesAndOldStreamsGoOn) {
  Serve(/*mutual=*/false);
  fakes::TestAuthority next("next authority");
  server_->executor.Close();
  const auto stub = v1::InferenceService::NewStub(Connect(authority_.certificate()));
  const auto context = NewContext();
  const auto reader = stub->StreamComplete(context.get(), TextRequest("x", 50));
  v1::StreamEvent event;
  ASSERT_TRUE(reader->Read(&event));
  Write(next.Issue());
  files_->Reload();
  server_->executor.Open();
  EXPECT_EQ(Call(Connect(next.certificate())), StatusCode::OK);
  EXPECT_EQ(Call(Connect(authority_.certificate())), StatusCode::UNAVAILABLE);
  while (reader->Read(&event)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(TlsTest, ABadRotationKeepsServing) {
  Serve(/*mutual=*/false);
  std::ofstream(paths_.key) << authority_.Issue().key;
  files_->Reload();
  files_->Reload();
  EXPECT_TRUE(files_->counts().stale);
  EXPECT_EQ(Call(Connect(authority_.certificate())), StatusCode::OK);
}

TEST_F(TlsTest, ANewClientAuthorityIsInEffectForNewConnections) {
  Serve(/*mutual=*/true);
  fakes::TestAuthority next("next authority");
  const PemPair alice = next.Issue({.name = "alice"});
  EXPECT_EQ(Call(Connect(authority_.certificate(), alice)), StatusCode::UNAVAILABLE);
  std::ofstream(client_ca_) << next.certificate();
  files_->Reload();
  EXPECT_EQ(Call(Connect(authority_.certificate(), alice)), StatusCode::OK);
  EXPECT_EQ(Call(Connect(authority_.certificate(), authority_.Issue({.name = "bob"}))),
            StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace spillway::server
