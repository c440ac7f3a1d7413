// Messages to and from the bytes of a call. The services take bytes, not messages, because gRPC answers a
// message that does not parse with UNIMPLEMENTED and an empty text; here the client learns which field is
// bad.
//
// Free functions; thread-safe.
#ifndef SPILLWAY_SERVER_MESSAGE_BYTES_H_
#define SPILLWAY_SERVER_MESSAGE_BYTES_H_

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace spillway::server {

// kInvalidField, naming every string field that is not valid UTF-8 and the offset of its first bad byte, or
// saying that the message is malformed. kUnsupportedFeature, naming the fields that this build's interface
// does not have by path and number: they come from a newer client, and to pass them over would be to answer
// another question than it asked. A message of very many parts, whose objects would take a hundred times its
// bytes, is refused before it is parsed.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

// The same of calls that ask little: a message beyond 64 KiB is refused unread, so that it can be parsed
// where nothing may take long.
absl::Status ParseSmallMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

// One contiguous slice.
grpc::ByteBuffer SerializeMessage(const google::protobuf::MessageLite& message);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_MESSAGE_BYTES_H_
