// spillway.v1.InferenceService: a thin door. Every method takes bytes (message_bytes.h says why), and either
// becomes a GenerationCall or is answered at once or from the text pool. Thread-safe.
#ifndef SPILLWAY_SERVER_INFERENCE_SERVICE_H_
#define SPILLWAY_SERVER_INFERENCE_SERVICE_H_

#include <functional>

#include "absl/status/statusor.h"
#include "server/generation_call.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::server {

namespace internal {

using Inference = v1::InferenceService;

// All methods, over bytes.
using RawInferenceService = Inference::WithRawCallbackMethod_Complete<
    Inference::WithRawCallbackMethod_StreamComplete<Inference::WithRawCallbackMethod_Chat<
        Inference::WithRawCallbackMethod_StreamChat<Inference::WithRawCallbackMethod_Tokenize<
            Inference::WithRawCallbackMethod_Detokenize<Inference::WithRawCallbackMethod_ListModels<
                Inference::WithRawCallbackMethod_GetModel<Inference::Service>>>>>>>>;

}  // namespace internal

class InferenceService final : public internal::RawInferenceService {
 public:
  // What `parts` refers to must outlive the service.
  explicit InferenceService(const CallParts& parts) : parts_(parts) {}

  using Context = grpc::CallbackServerContext;
  using Bytes = grpc::ByteBuffer;

  grpc::ServerUnaryReactor* Complete(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerWriteReactor<Bytes>* StreamComplete(Context* context, const Bytes* request) override;
  grpc::ServerUnaryReactor* Chat(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerWriteReactor<Bytes>* StreamChat(Context* context, const Bytes* request) override;
  grpc::ServerUnaryReactor* Tokenize(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerUnaryReactor* Detokenize(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerUnaryReactor* ListModels(Context* context, const Bytes* request, Bytes* response) override;
  grpc::ServerUnaryReactor* GetModel(Context* context, const Bytes* request, Bytes* response) override;

 private:
  // From a call's bytes to its answer's.
  using Answer = std::function<absl::StatusOr<Bytes>(const Backend&, const Bytes&)>;

  // Answers on this thread, or from the text pool where the request is long.
  grpc::ServerUnaryReactor* Serve(Context* context, const Bytes* request, Bytes* response, Answer answer);

  const CallParts parts_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_INFERENCE_SERVICE_H_
