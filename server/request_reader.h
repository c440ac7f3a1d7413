// Requests of the wire to requests of the scheduler: everything is checked, every bad field is reported at
// once, chat is rendered and text is tokenised. Synchronous and without side effects: callers choose the
// thread (a long prompt takes milliseconds).
//
// Immutable and thread-safe.
#ifndef SPILLWAY_SERVER_REQUEST_READER_H_
#define SPILLWAY_SERVER_REQUEST_READER_H_

#include "absl/status/statusor.h"
#include "scheduler/request.h"
#include "server/served_model.h"
#include "server/violations.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::server {

class RequestReader {
 public:
  // `model` must outlive the reader.
  explicit RequestReader(const ServedModel& model) : model_(model) {}

  // Times are the caller's to set. Errors: kModelNotFound, kInvalidField, kUnsupportedFeature,
  // kPromptTooLong, kNoChatTemplate, kNoTokenizer, kChatTemplateRejected.
  absl::StatusOr<scheduler::Request> Read(const v1::CompleteRequest& in) const;
  absl::StatusOr<scheduler::Request> Read(const v1::ChatRequest& in) const;

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& in) const;
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& in) const;

  absl::Status CheckModel(absl::string_view name) const;

 private:
  // kNoTokenizer for a model of token ids only.
  absl::Status CheckText() const;

  using Messages = google::protobuf::RepeatedPtrField<v1::ChatMessage>;

  // `path`: of the messages' field. True when they are good.
  bool CheckMessages(const Messages& messages, absl::string_view path, Violations* violations) const;
  // What a ChatRequest or ChatInput says beside its messages; `prefix` is of its fields' paths. True when it
  // is good.
  template <typename Chat>
  bool ReadRenderOptions(const Chat& in, absl::string_view prefix, text::RenderOptions* options,
                         Violations* violations) const;
  // REQUIRES: the messages are good.
  absl::StatusOr<std::vector<text::Piece>> Render(const Messages& messages, text::RenderOptions options,
                                                  absl::string_view path) const;
  // Of what Render gave.
  absl::StatusOr<std::vector<text::TokenId>> Encode(const std::vector<text::Piece>& pieces, bool add_bos,
                                                    absl::string_view path) const;

  const ServedModel& model_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_REQUEST_READER_H_
