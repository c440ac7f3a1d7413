#include "tests/server/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/network_address.h"

namespace spillway::server {
namespace {

// RFC 9113, section 6.
constexpr uint8_t kData = 0, kHeaders = 1, kReset = 3, kSettings = 4;
constexpr uint8_t kEndStream = 1, kEndHeaders = 4;

std::string BigEndian(uint32_t value, int bytes) {
  std::string out;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xFF);
  return out;
}

std::string FrameOf(uint8_t type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  return absl::StrCat(BigEndian(static_cast<uint32_t>(payload.size()), 3),
                      std::string(1, static_cast<char>(type)), std::string(1, static_cast<char>(flags)),
                      BigEndian(stream, 4), payload);
}

// RFC 7541, section 6.2.2: a literal without indexing. Names and values below 127 bytes.
std::string HeaderOf(absl::string_view name, absl::string_view value) {
  return absl::StrCat(std::string(1, '\0'), std::string(1, static_cast<char>(name.size())), name,
                      std::string(1, static_cast<char>(value.size())), value);
}

}  // namespace

Listener::Descriptor ConnectTo(const std::string& address, int patience_s) {
  Listener::Descriptor out(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (out.get() >= 0) ConnectTo(address, patience_s, out);
  return out;
}

void ConnectTo(const std::string& address, int patience_s, const Listener::Descriptor& socket) {
  sockaddr_in target{};
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(SplitHostPort(address).port, &port));
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(port));
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(socket.get(), reinterpret_cast<const sockaddr*>(&target), sizeof(target)), 0);
  const timeval patience{patience_s, 0};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

RawClient::RawClient(const std::string& address) : socket_(ConnectTo(address, /*patience_s=*/20)) {
  Write(absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FrameOf(kSettings, 0, 0, "")));
}

void RawClient::Write(absl::string_view bytes) {
  EXPECT_EQ(send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}

void RawClient::Send(absl::string_view path, absl::string_view message, const Headers& headers,
                     size_t sent_bytes) {
  stream_ = stream_ == 0 ? 1 : stream_ + 2;
  std::string fields = absl::StrCat(HeaderOf(":method", "POST"), HeaderOf(":scheme", "http"),
                                    HeaderOf(":path", path), HeaderOf(":authority", "x"),
                                    HeaderOf("content-type", "application/grpc"), HeaderOf("te", "trailers"));
  for (const auto& [name, value] : headers) fields += HeaderOf(name, value);
  Write(FrameOf(kHeaders, kEndHeaders, stream_, fields));
  const std::string framed =
      absl::StrCat(std::string(1, '\0'), BigEndian(static_cast<uint32_t>(message.size()), 4), message);
  const absl::string_view sent = absl::string_view(framed).substr(0, sent_bytes);
  constexpr size_t kFrameBytes = 16'384;
  for (size_t begin = 0; begin < sent.size(); begin += kFrameBytes) {
    const bool last = sent.size() == framed.size() && begin + kFrameBytes >= sent.size();
    Write(FrameOf(kData, last ? kEndStream : 0, stream_, sent.substr(begin, kFrameBytes)));
  }
}

bool RawClient::ReadFrame(Frame* frame) {
  std::string head(9, '\0');
  if (recv(socket_.get(), head.data(), head.size(), MSG_WAITALL) != static_cast<ssize_t>(head.size())) {
    return false;
  }
  const auto number = [&head](size_t begin, size_t bytes) {
    uint32_t value = 0;
    for (size_t i = begin; i < begin + bytes; ++i) value = value << 8 | static_cast<uint8_t>(head[i]);
    return value;
  };
  *frame = {static_cast<uint8_t>(head[3]), static_cast<uint8_t>(head[4]), number(5, 4), number(0, 3)};
  std::string payload(frame->size, '\0');
  return frame->size == 0 || recv(socket_.get(), payload.data(), payload.size(), MSG_WAITALL) ==
                                 static_cast<ssize_t>(payload.size());
}

RawClient::End RawClient::ReadToEnd() {
  End end;
  for (Frame frame; !end.ended && ReadFrame(&frame);) {
    if (frame.stream != stream_) continue;
    end.message = end.message || frame.type == kData;
    end.ended = frame.type == kReset ||
                ((frame.type == kData || frame.type == kHeaders) && (frame.flags & kEndStream) != 0);
  }
  return end;
}

bool RawClient::ReadAnswer() {
  const End end = ReadToEnd();
  return end.ended && end.message;
}

bool RawClient::EndsUnanswered() {
  const End end = ReadToEnd();
  return end.ended && !end.message;
}

}  // namespace spillway::server
