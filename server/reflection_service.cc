#include "server/reflection_service.h"

#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "server/error_status.h"
#include "server/refused_call.h"

namespace spillway::server {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

const DescriptorPool& Pool() { return *DescriptorPool::generated_pool(); }

// The file and all that it imports, imports last.
void CollectFiles(const FileDescriptor& file, std::set<const FileDescriptor*>* seen,
                  std::vector<std::string>* serialized) {
  if (!seen->insert(&file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  serialized->push_back(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) CollectFiles(*file.dependency(i), seen, serialized);
}

template <typename Response>
void SetError(const std::string& what, Response* response) {
  response->mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
  response->mutable_error_response()->set_error_message(absl::StrCat(what, " not found"));
}

template <typename Response>
void SetFile(const FileDescriptor* file, const std::string& what, Response* response) {
  if (file == nullptr) {
    SetError(what, response);
    return;
  }
  std::set<const FileDescriptor*> seen;
  std::vector<std::string> serialized;
  CollectFiles(*file, &seen, &serialized);
  for (std::string& bytes : serialized) {
    response->mutable_file_descriptor_response()->add_file_descriptor_proto(std::move(bytes));
  }
}

template <typename Request, typename Response>
void Answer(const Request& request, const std::vector<std::string>& services, Response* response) {
  response->Clear();
  response->set_valid_host(request.host());
  *response->mutable_original_request() = request;
  switch (request.message_request_case()) {
    case Request::kFileByFilename:
      SetFile(Pool().FindFileByName(request.file_by_filename()), request.file_by_filename(), response);
      break;
    case Request::kFileContainingSymbol:
      SetFile(Pool().FindFileContainingSymbol(request.file_containing_symbol()),
              request.file_containing_symbol(), response);
      break;
    case Request::kFileContainingExtension: {
      const auto& wanted = request.file_containing_extension();
      const auto* type = Pool().FindMessageTypeByName(wanted.containing_type());
      const FieldDescriptor* extension =
          type == nullptr ? nullptr : Pool().FindExtensionByNumber(type, wanted.extension_number());
      SetFile(extension == nullptr ? nullptr : extension->file(),
              absl::StrCat("extension ", wanted.extension_number(), " of ", wanted.containing_type()),
              response);
      break;
    }
    case Request::kAllExtensionNumbersOfType: {
      const std::string& name = request.all_extension_numbers_of_type();
      const auto* type = Pool().FindMessageTypeByName(name);
      if (type == nullptr) {
        SetError(name, response);
        break;
      }
      response->mutable_all_extension_numbers_response()->set_base_type_name(name);
      std::vector<const FieldDescriptor*> extensions;
      Pool().FindAllExtensions(type, &extensions);
      for (const FieldDescriptor* extension : extensions) {
        response->mutable_all_extension_numbers_response()->add_extension_number(extension->number());
      }
      break;
    }
    case Request::kListServices:
      for (const std::string& service : services) {
        response->mutable_list_services_response()->add_service()->set_name(service);
      }
      break;
    case Request::MESSAGE_REQUEST_NOT_SET:
      response->mutable_error_response()->set_error_code(grpc::StatusCode::INVALID_ARGUMENT);
      response->mutable_error_response()->set_error_message("the request asks for nothing");
      break;
  }
}

constexpr size_t kQuestionBytesMax = 4096;

// Reads a request, writes its answer, reads the next: one of each at a time. Deletes itself.
template <typename Request, typename Response>
class Reactor final : public grpc::ServerBidiReactor<Request, Response> {
 public:
  // `services` and `waits` outlive the call.
  Reactor(const std::vector<std::string>& services, CallWaits& waits, grpc::CallbackServerContext& context,
          Caller caller)
      : services_(services), waits_(waits), context_(context), caller_(std::move(caller)) {
    ReadNext();
  }

  void OnReadDone(bool ok) override {
    waits_.traffic.OnReceived(context_.peer());
    waits_.receiving.End(ticket_);
    if (!ok) {  // the client has asked all that it wanted
      End(grpc::Status::OK);
      return;
    }
    // Answers repeat the question.
    if (request_.ByteSizeLong() > kQuestionBytesMax) {
      End({grpc::StatusCode::INVALID_ARGUMENT,
           absl::StrCat("a question of ", request_.ByteSizeLong(), " bytes; at most ", kQuestionBytesMax)});
      return;
    }
    response_.Clear();
    Answer(request_, services_, &response_);
    ticket_ = waits_.unread.Begin(context_.c_call());
    this->StartWrite(&response_);
  }

  void OnWriteDone(bool ok) override {
    waits_.unread.End(ticket_);
    if (ok) {
      ReadNext();
    } else {
      End(grpc::Status::CANCELLED);
    }
  }

  void OnDone() override { delete this; }

 private:
  // The caller's place is free before the client can know of the end, and ask for the next.
  void End(const grpc::Status& status) {
    caller_ = Caller();
    this->Finish(status);
  }

  void ReadNext() {
    waits_.traffic.OnReceiving(context_.peer());
    ticket_ = waits_.receiving.Begin(context_.c_call());
    this->StartRead(&request_);
  }

  const std::vector<std::string>& services_;
  CallWaits& waits_;
  grpc::CallbackServerContext& context_;
  Caller caller_;
  CallTimeouts::Ticket ticket_ = 0;  // of the read or write in flight
  Request request_;
  Response response_;
};

// A call of either version.
template <typename Request, typename Response>
grpc::ServerBidiReactor<Request, Response>* Start(const std::vector<std::string>& services, CallWaits& waits,
                                                  const Guard& guard, grpc::CallbackServerContext& context) {
  absl::StatusOr<Caller> caller = guard.Admit(context, "ServerReflectionInfo");
  if (!caller.ok()) {
    waits.traffic.OnRefused(context.peer());
    return new RefusedCall<Request, Response>(waits.unread, context,
                                              FinishStatus(caller.status(), 0, context));
  }
  return new Reactor<Request, Response>(services, waits, context, *std::move(caller));
}

}  // namespace

grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                        grpc::reflection::v1::ServerReflectionResponse>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext* context) {
  return Start<grpc::reflection::v1::ServerReflectionRequest, grpc::reflection::v1::ServerReflectionResponse>(
      services_, waits_, guard_, *context);
}

grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                        grpc::reflection::v1alpha::ServerReflectionResponse>*
ReflectionAlphaService::ServerReflectionInfo(grpc::CallbackServerContext* context) {
  return Start<grpc::reflection::v1alpha::ServerReflectionRequest,
               grpc::reflection::v1alpha::ServerReflectionResponse>(services_, waits_, guard_, *context);
}

}  // namespace spillway::server
