// gRPC server reflection, v1 and v1alpha: one implementation over the generated descriptor pool, since the
// two differ in their package's name alone. Stateless; thread-safe.
#ifndef SPILLWAY_SERVER_REFLECTION_SERVICE_H_
#define SPILLWAY_SERVER_REFLECTION_SERVICE_H_

#include <string>
#include <vector>

#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "server/message_call.h"

namespace spillway::server {

class ReflectionService final : public grpc::reflection::v1::ServerReflection::CallbackService {
 public:
  // Full names of what the daemon serves. `waits` bounds the time between two questions, and for reading an
  // answer; it must outlive the service. Where there are tokens, who asks must show one.
  ReflectionService(std::vector<std::string> services, CallWaits& waits, const Guard& guard)
      : services_(std::move(services)), waits_(waits), guard_(guard) {}

  grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                          grpc::reflection::v1::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  const std::vector<std::string> services_;
  CallWaits& waits_;
  const Guard guard_;
};

class ReflectionAlphaService final : public grpc::reflection::v1alpha::ServerReflection::CallbackService {
 public:
  ReflectionAlphaService(std::vector<std::string> services, CallWaits& waits, const Guard& guard)
      : services_(std::move(services)), waits_(waits), guard_(guard) {}

  grpc::ServerBidiReactor<grpc::reflection::v1alpha::ServerReflectionRequest,
                          grpc::reflection::v1alpha::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  const std::vector<std::string> services_;
  CallWaits& waits_;
  const Guard guard_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_REFLECTION_SERVICE_H_
