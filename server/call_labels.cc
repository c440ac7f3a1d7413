#include "server/call_labels.h"

#include <algorithm>
#include <utility>

#include "base/reason.h"
#include "server/served_model.h"

namespace spillway::server {
namespace {

constexpr size_t kLength = 55;  // 00-32 digits-16 digits-2 digits

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c == '0'; });
}

}  // namespace

TraceContext ParseTraceparent(absl::string_view text) {
  if (text.size() < kLength || text[2] != '-' || text[35] != '-' || text[52] != '-') return {};
  const absl::string_view version = text.substr(0, 2);
  const absl::string_view trace_id = text.substr(3, 32);
  const absl::string_view parent = text.substr(36, 16);
  if (!IsHex(version) || version == "ff" || !IsHex(trace_id) || !IsHex(parent) ||
      !IsHex(text.substr(53, 2))) {
    return {};
  }
  if (text.size() > kLength && (version == "00" || text[kLength] != '-')) return {};
  if (IsZero(trace_id) || IsZero(parent)) return {};
  return {std::string(trace_id), std::string(parent)};
}

TraceContext TraceContextOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("traceparent");
  // Two of them mean nothing.
  if (found == metadata.end() || metadata.count("traceparent") != 1) return {};
  return ParseTraceparent({found->second.data(), found->second.size()});
}

std::string RequestIdOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("x-request-id");
  if (found == metadata.end()) return "";
  const absl::string_view id(found->second.data(), found->second.size());
  const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
  const bool fit = id.size() <= kMaxRequestIdBytes && std::all_of(id.begin(), id.end(), printable);
  return fit ? std::string(id) : "";
}

Refusal RefusalOf(const absl::Status& why, std::string method, const grpc::CallbackServerContext& context,
                  std::string tenant) {
  return {ReasonOf(why),
          std::string(why.message()),
          RequestIdOf(context),
          std::move(method),
          context.peer(),
          std::move(tenant),
          TraceContextOf(context).trace_id};
}

}  // namespace spillway::server
