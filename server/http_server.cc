#include "server/http_server.h"

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "civetweb.h"
#include "server/network_address.h"

namespace spillway::server {
namespace {

// A connection that says nothing holds a thread for the request timeout. So many that a probe is answered in
// time beside dozens of them; who opens hundreds can reach the port to no good purpose.
constexpr char kThreads[] = "64";

absl::string_view StatusText(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 503:
      return "Service Unavailable";
    default:
      return "Error";
  }
}

void Send(mg_connection* connection, const HttpReply& reply, bool head_only) {
  std::string text = absl::StrCat(
      "HTTP/1.1 ", reply.code, " ", StatusText(reply.code), "\r\nContent-Type: ", reply.content_type,
      "\r\nContent-Length: ", reply.body.size(), "\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n");
  if (!head_only) text += reply.body;
  mg_write(connection, text.data(), text.size());
}

}  // namespace

struct HttpServer::Impl {
  static int OnRequest(mg_connection* connection) {
    const mg_request_info* request = mg_get_request_info(connection);
    const auto& self = *static_cast<const Impl*>(request->user_data);
    const absl::string_view method = request->request_method;
    HttpReply reply;
    const auto handler = self.handlers.find(request->local_uri);
    if (method != "GET" && method != "HEAD") {
      reply = {405, "only GET\n"};
    } else if (handler == self.handlers.end()) {
      reply = {404, "no such path; see /\n"};
    } else {
      reply = handler->second();
    }
    Send(connection, reply, method == "HEAD");
    // Else a body would be read to its end, for as long as anything comes of it.
    mg_disable_connection_keep_alive(connection);
    return reply.code;
  }

  static int OnLog(const mg_connection* /*connection*/, const char* message) {
    Log(LogLevel::kDebug, "http", {{"message", message}});
    return 1;
  }

  std::map<std::string, Handler> handlers;
  mg_context* context = nullptr;
};

HttpServer::HttpServer() : impl_(std::make_unique<Impl>()) {}

HttpServer::~HttpServer() {
  if (impl_->context == nullptr) return;
  // civetweb's accepting thread looks at its stop flag every two seconds, or when somebody connects.
  std::atomic<bool> stopped{false};
  std::thread caller([this, &stopped] {
    while (!stopped.load()) {
      Connect(address_);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  mg_stop(impl_->context);
  stopped.store(true);
  caller.join();
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              std::map<std::string, Handler> handlers) {
  auto server = std::unique_ptr<HttpServer>(new HttpServer());
  server->impl_->handlers = std::move(handlers);
  const std::array<const char*, 9> options = {"listening_ports",
                                              address.c_str(),
                                              "num_threads",
                                              kThreads,
                                              "request_timeout_ms",
                                              "1000",
                                              "enable_keep_alive",
                                              "no",
                                              nullptr};
  mg_callbacks callbacks{};
  callbacks.begin_request = &Impl::OnRequest;
  callbacks.log_message = &Impl::OnLog;
  server->impl_->context =
      mg_start(&callbacks, server->impl_.get(), const_cast<const char**>(options.data()));
  if (server->impl_->context == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", WhyNotBound(address)));
  }
  std::array<mg_server_port, 4> ports{};
  const int n_ports = mg_get_server_ports(server->impl_->context, ports.size(), ports.data());
  server->address_ = n_ports > 0 ? WithPort(address, ports[0].port) : address;
  return server;
}

}  // namespace spillway::server
