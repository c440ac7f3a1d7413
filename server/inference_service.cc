#include "server/inference_service.h"

#include <memory>
#include <utility>

#include "base/status_macros.h"
#include "server/error_status.h"
#include "server/message_bytes.h"

namespace spillway::server {
namespace {

// Parses `Message` and hands it to the reader.
template <typename Message>
absl::StatusOr<scheduler::Request> ReadAs(const RequestReader& reader, const grpc::ByteBuffer& bytes) {
  Message message;
  SPILLWAY_RETURN_IF_ERROR(ParseMessage(bytes, &message));
  return reader.Read(message);
}

template <typename Response>
class GathererOf final : public UnaryCall::Gatherer {
 public:
  void Fold(v1::StreamEvent& event) override { FoldEvent(event, &response_); }
  grpc::ByteBuffer Serialize() const override { return SerializeMessage(response_); }

 private:
  Response response_;
};

template <typename Request, typename Response>
grpc::ServerUnaryReactor* StartUnary(const CallParts& parts, grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  auto call = std::make_shared<UnaryCall>(parts, *context, &ReadAs<Request>,
                                          std::make_unique<GathererOf<Response>>(), *response);
  call->Start(*request);  // from here on the call owns itself
  return call.get();
}

template <typename Request>
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStream(const CallParts& parts,
                                                        grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request) {
  auto call = std::make_shared<StreamCall>(parts, *context, &ReadAs<Request>);
  call->Start(*request);
  return call.get();
}

}  // namespace

grpc::ServerUnaryReactor* InferenceService::Complete(Context* context, const Bytes* request,
                                                     Bytes* response) {
  return StartUnary<v1::CompleteRequest, v1::CompleteResponse>(parts_, context, request, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::StreamComplete(Context* context,
                                                                             const Bytes* request) {
  return StartStream<v1::CompleteRequest>(parts_, context, request);
}

grpc::ServerUnaryReactor* InferenceService::Chat(Context* context, const Bytes* request, Bytes* response) {
  return StartUnary<v1::ChatRequest, v1::ChatResponse>(parts_, context, request, response);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::StreamChat(Context* context,
                                                                         const Bytes* request) {
  return StartStream<v1::ChatRequest>(parts_, context, request);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(Context* context, const Bytes* request,
                                                     Bytes* response) {
  return Serve(
      context, request, response, [](const Backend& backend, const Bytes& bytes) -> absl::StatusOr<Bytes> {
        v1::TokenizeRequest message;
        SPILLWAY_RETURN_IF_ERROR(ParseMessage(bytes, &message));
        SPILLWAY_ASSIGN_OR_RETURN(const v1::TokenizeResponse answer, backend.reader.Tokenize(message));
        return SerializeMessage(answer);
      });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(Context* context, const Bytes* request,
                                                       Bytes* response) {
  return Serve(
      context, request, response, [](const Backend& backend, const Bytes& bytes) -> absl::StatusOr<Bytes> {
        v1::DetokenizeRequest message;
        SPILLWAY_RETURN_IF_ERROR(ParseMessage(bytes, &message));
        SPILLWAY_ASSIGN_OR_RETURN(const v1::DetokenizeResponse answer, backend.reader.Detokenize(message));
        return SerializeMessage(answer);
      });
}

grpc::ServerUnaryReactor* InferenceService::ListModels(Context* context, const Bytes* request,
                                                       Bytes* response) {
  return Serve(context, request, response,
               [](const Backend& backend, const Bytes& bytes) -> absl::StatusOr<Bytes> {
                 v1::ListModelsRequest message;
                 SPILLWAY_RETURN_IF_ERROR(ParseMessage(bytes, &message));
                 v1::ListModelsResponse answer;
                 *answer.add_models() = backend.model.ToProto();
                 return SerializeMessage(answer);
               });
}

grpc::ServerUnaryReactor* InferenceService::GetModel(Context* context, const Bytes* request,
                                                     Bytes* response) {
  return Serve(context, request, response,
               [](const Backend& backend, const Bytes& bytes) -> absl::StatusOr<Bytes> {
                 v1::GetModelRequest message;
                 SPILLWAY_RETURN_IF_ERROR(ParseMessage(bytes, &message));
                 SPILLWAY_RETURN_IF_ERROR(backend.reader.CheckModel(message.model()));
                 v1::GetModelResponse answer;
                 *answer.mutable_model() = backend.model.ToProto();
                 return SerializeMessage(answer);
               });
}

grpc::ServerUnaryReactor* InferenceService::Serve(Context* context, const Bytes* request, Bytes* response,
                                                  Answer answer) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto finish = [context, reactor](const absl::Status& status) {
    reactor->Finish(FinishStatus(status, 0, *context));
  };
  const absl::StatusOr<const Backend*> backend = parts_.state.Loaded();
  if (!backend.ok()) {
    finish(backend.status());
    return reactor;
  }
  // Context, request and response live until the call is finished.
  auto work = [backend = *backend, request, response, answer = std::move(answer), finish] {
    absl::StatusOr<Bytes> bytes = answer(*backend, *request);
    if (bytes.ok()) *response = *std::move(bytes);
    finish(bytes.status());
  };
  if (request->Length() <= kInlineRequestBytes) {
    work();
    return reactor;
  }
  const absl::Status submitted =
      parts_.text_pool.Submit(static_cast<int64_t>(request->Length()), std::move(work));
  if (!submitted.ok()) finish(submitted);
  return reactor;
}

}  // namespace spillway::server
