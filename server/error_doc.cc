#include "server/error_doc.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/reason.h"

namespace spillway::server {

std::string ErrorsDoc() {
  std::string out = "| reason | code | retry | when | what to do |\n|---|---|---|---|---|\n";
  for (const ReasonInfo& info : AllReasons()) {
    absl::StrAppend(&out, "| `", info.name, "` | ", absl::StatusCodeToString(info.code), " | ",
                    info.retryable ? "yes" : "no", " | ", info.meaning, " | ", info.remedy, " |\n");
  }
  return out;
}

}  // namespace spillway::server
