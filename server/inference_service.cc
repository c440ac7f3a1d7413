#include "server/inference_service.h"

#include <memory>
#include <string>
#include <utility>

#include "base/status_macros.h"
#include "server/error_status.h"
#include "server/message_bytes.h"
#include "spillway/v1/inference.grpc.pb.h"

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

// Parses `Request`, reads it and serialises what comes out.
template <typename Request, typename Answer>
auto Answering(Answer answer) {
  return [answer](const Backend& backend, const grpc::ByteBuffer& bytes) -> absl::StatusOr<grpc::ByteBuffer> {
    Request request;
    SPILLWAY_RETURN_IF_ERROR(ParseMessage(bytes, &request));
    SPILLWAY_ASSIGN_OR_RETURN(const auto response, answer(backend, request));
    return SerializeMessage(response);
  };
}

absl::StatusOr<v1::ListModelsResponse> ListModels(const Backend& backend,
                                                  const v1::ListModelsRequest& /*in*/) {
  v1::ListModelsResponse out;
  *out.add_models() = backend.model.ToProto();
  return out;
}

absl::StatusOr<v1::GetModelResponse> GetModel(const Backend& backend, const v1::GetModelRequest& in) {
  SPILLWAY_RETURN_IF_ERROR(backend.reader.CheckModel(in.model()));
  v1::GetModelResponse out;
  *out.mutable_model() = backend.model.ToProto();
  return out;
}

}  // namespace

InferenceService::InferenceService(const CallParts& parts, CallWaits& waits, const Authorizer& authorizer)
    : MessageService(std::string(v1::InferenceService::service_full_name()), waits,
                     {&authorizer, Access::kUser, &parts.telemetry}),
      parts_(parts) {
  const auto start = [](auto call) {
    call->Start();  // from here on the call owns itself
    return call.get();
  };
  AddMethod("Complete", [this, &waits, start](grpc::CallbackServerContext& context, Caller caller) {
    return start(std::make_shared<UnaryCall>(parts_, waits, context, std::move(caller), "Complete",
                                             &ReadAs<v1::CompleteRequest>,
                                             std::make_unique<GathererOf<v1::CompleteResponse>>()));
  });
  AddMethod("StreamComplete", [this, &waits, start](grpc::CallbackServerContext& context, Caller caller) {
    return start(std::make_shared<StreamCall>(parts_, waits, context, std::move(caller), "StreamComplete",
                                              &ReadAs<v1::CompleteRequest>));
  });
  AddMethod("Chat", [this, &waits, start](grpc::CallbackServerContext& context, Caller caller) {
    return start(std::make_shared<UnaryCall>(parts_, waits, context, std::move(caller), "Chat",
                                             &ReadAs<v1::ChatRequest>,
                                             std::make_unique<GathererOf<v1::ChatResponse>>()));
  });
  AddMethod("StreamChat", [this, &waits, start](grpc::CallbackServerContext& context, Caller caller) {
    return start(std::make_shared<StreamCall>(parts_, waits, context, std::move(caller), "StreamChat",
                                              &ReadAs<v1::ChatRequest>));
  });
  AddRead("Tokenize",
          Answering<v1::TokenizeRequest>([](const Backend& backend, const v1::TokenizeRequest& in) {
            return backend.reader.Tokenize(in);
          }));
  AddRead("Detokenize",
          Answering<v1::DetokenizeRequest>([](const Backend& backend, const v1::DetokenizeRequest& in) {
            return backend.reader.Detokenize(in);
          }));
  AddRead("ListModels", Answering<v1::ListModelsRequest>(&ListModels));
  AddRead("GetModel", Answering<v1::GetModelRequest>(&GetModel));
}

void InferenceService::AddRead(const std::string& method, Read read) {
  AddAnswer(method, [this, read = std::move(read)](AnswerCall& call, const grpc::ByteBuffer& request) {
    const absl::StatusOr<const Backend*> backend = parts_.state.Loaded();
    if (!backend.ok()) return call.Answer(backend.status());
    // The request lives until the call is answered.
    call.AnswerWith(parts_.text_pool,
                    [&request, &read, backend = *backend] { return read(*backend, request); });
  });
}

}  // namespace spillway::server
