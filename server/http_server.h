// A small HTTP server for metrics and probes: fixed paths, GET only, text answers. Thread-safe.
#ifndef SPILLWAY_SERVER_HTTP_SERVER_H_
#define SPILLWAY_SERVER_HTTP_SERVER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace spillway::server {

struct HttpReply {
  int code = 200;
  std::string body;
  std::string content_type = "text/plain; charset=utf-8";
};

class HttpServer {
 public:
  // Called on the server's threads, several at a time.
  using Handler = std::function<HttpReply()>;

  // `address`: HOST:PORT, port 0 picks one. Unavailable, in one line with the cause, when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           std::map<std::string, Handler> handlers);
  // Closes the port and waits for running handlers.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // HOST:PORT as bound.
  const std::string& address() const { return address_; }

 private:
  struct Impl;
  HttpServer();
  std::unique_ptr<Impl> impl_;
  std::string address_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_HTTP_SERVER_H_
