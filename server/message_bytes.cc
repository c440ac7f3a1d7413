#include "server/message_bytes.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/reason.h"
#include "engine/text/utf8.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/unknown_field_set.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpc/slice.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "grpcpp/support/slice.h"

namespace spillway::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kDepthMax = 100;  // protobuf's own limit of nesting
constexpr size_t kViolationsMax = 32;
constexpr size_t kSmallMessageBytes = 64 * 1024;
// Parts of one message: far more than any conversation has.
constexpr int64_t kPartsMax = 1 << 18;
constexpr size_t kPartBytesMin = 2;  // tag and length of an empty one

// Whether the parser makes an object of its own of a field, where two bytes of the wire become a hundred of
// memory: messages, strings, and whatever the type does not know, which is kept aside.
bool IsPart(const FieldDescriptor* field, WireFormatLite::WireType wire) {
  if (field == nullptr || wire == WireFormatLite::WIRETYPE_LENGTH_DELIMITED) return true;
  return wire != WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field->type()));
}

// Counts the parts within a message of `type` (null: within a field that nobody knows), and theirs; false
// where they are too many. Malformed bytes end the count: who parses them says so, and has made no more until
// there.
bool CountParts(CodedInputStream& input, const Descriptor* type, int depth, int64_t* parts) {
  if (depth > kDepthMax) return true;
  while (const uint32_t tag = input.ReadTag()) {
    const WireFormatLite::WireType wire = WireFormatLite::GetTagWireType(tag);
    if (wire == WireFormatLite::WIRETYPE_END_GROUP) return true;
    const FieldDescriptor* const field =
        type == nullptr ? nullptr : type->FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    if (IsPart(field, wire) && ++*parts > kPartsMax) return false;
    if (wire == WireFormatLite::WIRETYPE_START_GROUP) {
      if (!CountParts(input, nullptr, depth + 1, parts)) return false;
      continue;
    }
    if (wire != WireFormatLite::WIRETYPE_LENGTH_DELIMITED || field == nullptr ||
        field->type() != FieldDescriptor::TYPE_MESSAGE) {
      if (!WireFormatLite::SkipField(&input, tag)) return true;
      continue;
    }
    uint32_t length = 0;
    if (!input.ReadVarint32(&length) || length > (uint32_t{1} << 30)) return true;
    const CodedInputStream::Limit limit = input.PushLimit(static_cast<int>(length));
    if (!CountParts(input, field->message_type(), depth + 1, parts)) return false;
    // Malformed within: what follows is not at its place.
    if (input.BytesUntilLimit() > 0) return true;
    input.PopLimit(limit);
  }
  return true;
}

bool HasTooManyParts(const grpc::ByteBuffer& bytes, const Descriptor& type) {
  if (bytes.Length() <= static_cast<size_t>(kPartsMax) * kPartBytesMin) return false;
  grpc::ByteBuffer shared = bytes;
  grpc::ProtoBufferReader reader(&shared);
  if (!reader.status().ok()) return false;
  CodedInputStream input(&reader);
  int64_t parts = 0;
  return !CountParts(input, &type, 0, &parts);
}

// Walks the wire format beside the descriptor. Stops silently where the bytes are malformed: the caller then
// says so.
void FindBadStrings(absl::string_view bytes, const Descriptor& type, const std::string& path, int depth,
                    std::vector<FieldViolation>& violations) {
  CodedInputStream input(reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<int>(bytes.size()));
  std::vector<int> counts(static_cast<size_t>(type.field_count()));  // elements seen of each field
  while (const uint32_t tag = input.ReadTag()) {
    const FieldDescriptor* field = type.FindFieldByNumber(WireFormatLite::GetTagFieldNumber(tag));
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED ||
        field == nullptr) {
      if (!WireFormatLite::SkipField(&input, tag)) return;
      continue;
    }
    uint32_t length = 0;
    if (!input.ReadVarint32(&length)) return;
    const auto begin = static_cast<size_t>(input.CurrentPosition());
    if (length > bytes.size() - begin || !input.Skip(static_cast<int>(length))) return;
    const absl::string_view value = bytes.substr(begin, length);

    const int index = counts[static_cast<size_t>(field->index())]++;
    std::string name = absl::StrCat(path, path.empty() ? "" : ".", field->name());
    if (field->is_repeated()) absl::StrAppend(&name, "[", index, "]");
    if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      if (depth < kDepthMax) FindBadStrings(value, *field->message_type(), name, depth + 1, violations);
    } else if (field->type() == FieldDescriptor::TYPE_STRING) {
      const std::optional<size_t> offset = text::FindInvalidUtf8(value);
      if (!offset.has_value()) continue;
      if (violations.size() >= kViolationsMax) return;
      violations.push_back({std::move(name), absl::StrCat("not valid UTF-8 at byte ", *offset)});
    }
  }
}

absl::Status ParseError(const grpc::ByteBuffer& bytes, const Descriptor& type) {
  grpc::Slice flat;
  std::vector<FieldViolation> violations;
  if (bytes.DumpToSingleSlice(&flat).ok()) {
    FindBadStrings({reinterpret_cast<const char*>(flat.begin()), flat.size()}, type, "", 0, violations);
  }
  if (violations.empty()) {
    violations.push_back({"", absl::StrCat("the bytes are not a message of type ", type.full_name())});
  }
  return MakeFieldError(violations);
}

// Whether fields of the type can hold messages, in which unknown fields may be.
bool HoldsMessages(const Descriptor& type) {
  for (int i = 0; i < type.field_count(); ++i) {
    if (type.field(i)->type() == FieldDescriptor::TYPE_MESSAGE) return true;
  }
  return false;
}

void FindUnknownFields(const google::protobuf::Message& message, const std::string& path,
                       std::vector<FieldViolation>& violations) {
  const Reflection& reflection = *message.GetReflection();
  const Descriptor& type = *message.GetDescriptor();
  const google::protobuf::UnknownFieldSet& unknown = reflection.GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count() && violations.size() < kViolationsMax; ++i) {
    const int number = unknown.field(i).number();
    violations.push_back({absl::StrCat(path, path.empty() ? "" : ".", "#", number),
                          absl::StrCat("this daemon (", SPILLWAY_VERSION, ") knows no field ", number, " of ",
                                       type.full_name(), "; leave it unset, or ask a newer daemon")});
  }
  // Nesting is bounded by the parser, and the number of messages by the bytes of the request.
  for (int i = 0; i < type.field_count() && violations.size() < kViolationsMax; ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.type() != FieldDescriptor::TYPE_MESSAGE) continue;
    const std::string name = absl::StrCat(path, path.empty() ? "" : ".", field.name());
    if (!field.is_repeated()) {
      if (reflection.HasField(message, &field)) {
        FindUnknownFields(reflection.GetMessage(message, &field), name, violations);
      }
      continue;
    }
    const bool deep = HoldsMessages(*field.message_type());
    const int size = reflection.FieldSize(message, &field);
    for (int element = 0; element < size && violations.size() < kViolationsMax; ++element) {
      const google::protobuf::Message& value = reflection.GetRepeatedMessage(message, &field, element);
      if (!deep && value.GetReflection()->GetUnknownFields(value).empty()) continue;
      FindUnknownFields(value, absl::StrCat(name, "[", element, "]"), violations);
    }
  }
}

absl::Status CheckKnown(const google::protobuf::Message& message) {
  std::vector<FieldViolation> violations;
  FindUnknownFields(message, "", violations);
  if (violations.empty()) return absl::OkStatus();
  return MakeFieldError(violations, Reason::kUnsupportedFeature, {{"field", violations.front().field}});
}

}  // namespace

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  // An empty message may come as a buffer without slices.
  if (!bytes.Valid() || bytes.Length() == 0) {
    message->Clear();
    return absl::OkStatus();
  }
  if (HasTooManyParts(bytes, *message->GetDescriptor())) {
    return MakeFieldError(
        {{"", absl::StrCat("the message holds more than ", kPartsMax,
                           " strings, messages and fields that this daemon does not know")}});
  }
  grpc::ByteBuffer shared = bytes;  // counts a reference; the reader wants a pointer to a mutable buffer
  grpc::ProtoBufferReader reader(&shared);
  if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) return CheckKnown(*message);
  return ParseError(bytes, *message->GetDescriptor());
}

absl::Status ParseSmallMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  if (bytes.Valid() && bytes.Length() > kSmallMessageBytes) {
    return MakeFieldError(
        {{"", absl::StrCat("a message of ", bytes.Length(), " bytes; at most ", kSmallMessageBytes)}});
  }
  return ParseMessage(bytes, message);
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::MessageLite& message) {
  const size_t size = message.ByteSizeLong();
  SPILLWAY_CHECK_MSG(size < (size_t{1} << 31), "a message beyond protobuf's limit");
  grpc_slice slice = grpc_slice_malloc(size);
  message.SerializeWithCachedSizesToArray(GRPC_SLICE_START_PTR(slice));
  const grpc::Slice owner(slice, grpc::Slice::STEAL_REF);
  return grpc::ByteBuffer(&owner, 1);
}

}  // namespace spillway::server
