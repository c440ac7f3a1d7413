// spillway.v1.InferenceService: a thin door. Every method takes bytes (message_bytes.h says why), and either
// becomes a GenerationCall or is answered at once or from the text pool. Thread-safe.
#ifndef SPILLWAY_SERVER_INFERENCE_SERVICE_H_
#define SPILLWAY_SERVER_INFERENCE_SERVICE_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "server/generation_call.h"
#include "server/message_call.h"

namespace spillway::server {

class InferenceService final : public MessageService {
 public:
  // What `parts` refers to, and the others, must outlive the service.
  InferenceService(const CallParts& parts, CallWaits& waits, const Authorizer& authorizer);

 private:
  // From a call's bytes to its answer's.
  using Read = std::function<absl::StatusOr<grpc::ByteBuffer>(const Backend&, const grpc::ByteBuffer&)>;

  // A method that is answered on the thread that brought its message, or from the text pool where that is
  // long.
  void AddRead(const std::string& method, Read read);

  const CallParts parts_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_INFERENCE_SERVICE_H_
