#include "server/serving_state.h"

namespace spillway::server {

absl::StatusOr<const Backend*> ServingState::Loaded() const {
  const Backend* loaded = backend();
  if (loaded == nullptr || phase() == ServerPhase::kLoading) {
    return MakeError(Reason::kNotReady, "the model is still loading");
  }
  return loaded;
}

absl::StatusOr<const Backend*> ServingState::Accepting() const {
  switch (phase()) {
    case ServerPhase::kDraining:
      return MakeError(Reason::kDraining, "the daemon is shutting down");
    case ServerPhase::kFailed:
      return MakeError(Reason::kEngineFailed, "the device failed and the daemon is about to exit");
    case ServerPhase::kLoading:
    case ServerPhase::kServing:
    case ServerPhase::kLameDuck:
      break;
  }
  return Loaded();
}

}  // namespace spillway::server
