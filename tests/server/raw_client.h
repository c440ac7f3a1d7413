// RawClient: gRPC over HTTP/2 by hand, for what no client library would send, or would not leave undone: it
// reads only where it is told to, and never widens a window.
#ifndef SPILLWAY_TESTS_SERVER_RAW_CLIENT_H_
#define SPILLWAY_TESTS_SERVER_RAW_CLIENT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/listener.h"

namespace spillway::server {

// A connection to 127.0.0.1, whose reads give up after a time; -1 when the process has no descriptor for it.
Listener::Descriptor ConnectTo(const std::string& address, int patience_s = 10);
// Likewise, of a TCP socket that is there already.
void ConnectTo(const std::string& address, int patience_s, const Listener::Descriptor& socket);

// One connection; one call at a time. Failures to connect or to write fail the test.
class RawClient {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  explicit RawClient(const std::string& address);

  // A call's headers, and the first `sent_bytes` of its only message (all of it, and the stream's end, by
  // default).
  void Send(absl::string_view path, absl::string_view message, const Headers& headers = {},
            size_t sent_bytes = std::string::npos);
  // Reads until the call ends; true when a message came before.
  bool ReadAnswer();
  // Reads until the call ends; true when no message came before, false also when it does not end for long.
  bool EndsUnanswered();

 private:
  struct Frame {
    uint8_t type = 0;
    uint8_t flags = 0;
    uint32_t stream = 0;
    uint32_t size = 0;
  };

  void Write(absl::string_view bytes);
  // False when the server has closed, or nothing came for long.
  bool ReadFrame(Frame* frame);
  // Reads until the call ends, and says whether it did and whether a message came.
  struct End {
    bool ended = false;
    bool message = false;
  };
  End ReadToEnd();

  Listener::Descriptor socket_;
  uint32_t stream_ = 0;  // of the last call
};

}  // namespace spillway::server

#endif  // SPILLWAY_TESTS_SERVER_RAW_CLIENT_H_
