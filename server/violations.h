// Collects every bad field of a request, so that a client learns of all at once.
#ifndef SPILLWAY_SERVER_VIOLATIONS_H_
#define SPILLWAY_SERVER_VIOLATIONS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/reason.h"

namespace spillway::server {

class Violations {
 public:
  void Add(absl::string_view field, std::string description, Reason reason = Reason::kInvalidField,
           ReasonMetadata metadata = {}) {
    if (violations_.empty()) {
      reason_ = reason;
    } else if (reason != reason_) {
      reason_ = Reason::kInvalidField;  // of several kinds
    }
    violations_.push_back({std::string(field), std::move(description)});
    for (auto& entry : metadata) metadata_.push_back(std::move(entry));
  }

  // A field of the interface that this daemon does not serve.
  void AddUnsupported(absl::string_view field) {
    Add(field, "not served by this daemon; leave it unset", Reason::kUnsupportedFeature,
        {{"field", std::string(field)}});
  }

  bool empty() const { return violations_.empty(); }

  // Of the violations' common reason, else kInvalidField; OK when there are none.
  absl::Status ToStatus() const {
    return violations_.empty() ? absl::OkStatus() : MakeFieldError(violations_, reason_, metadata_);
  }

 private:
  std::vector<FieldViolation> violations_;
  ReasonMetadata metadata_;
  Reason reason_ = Reason::kInvalidField;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_VIOLATIONS_H_
