// The filters, tests, functions and methods that templates may use. What is not in these tables is refused
// when a template is parsed.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_BUILTINS_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_BUILTINS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/text/jinja/value.h"

namespace spillway::text::jinja {

// What one Render call may use and owns. A unit of work is some ten nanoseconds or sixteen bytes of memory: a
// node evaluated, a third of a list's item, a part of a string. So the limit on work is one on memory, too.
class RenderState {
 public:
  RenderState(int64_t max_work, int64_t unix_seconds) : work_left_(max_work), unix_seconds_(unix_seconds) {}

  // ResourceExhausted once the template has used up its work.
  absl::Status Charge(int64_t work);
  // A string of its own, or several of together so many bytes.
  absl::Status ChargeText(size_t bytes, size_t count = 1) {
    return Charge(8 * static_cast<int64_t>(count) + static_cast<int64_t>(bytes / 16));
  }
  absl::Status ChargeItems(size_t count) { return Charge(3 * static_cast<int64_t>(count)); }

  Namespace* NewNamespace();

  // The template refuses the messages in its own words.
  absl::Status Raise(absl::string_view message);
  bool raised() const { return raised_; }

  int64_t unix_seconds() const { return unix_seconds_; }

 private:
  int64_t work_left_;
  const int64_t unix_seconds_;
  bool raised_ = false;
  std::vector<std::unique_ptr<Namespace>> namespaces_;
};

struct Builtin {
  // `arguments`: what the filter, test or method is applied to (not for functions), then one value per
  // parameter, undefined for those not given, then surplus ones. `named` are those given by keyword.
  using Arguments = absl::Span<const Value>;
  using Named = absl::Span<const std::pair<std::string, Value>>;
  using Function = absl::StatusOr<Value> (*)(RenderState&, Arguments arguments, Named named);

  absl::string_view name;
  Function function;
  int required = 0;                                // parameters that must be given
  std::vector<absl::string_view> parameters = {};  // by position or name
  bool takes_more = false;                         // further arguments by position
  std::vector<absl::string_view> keywords = {};    // further arguments by name only
  bool any_keyword = false;
  int filter_at = -1;  // position of an argument that names a filter or test to apply
  int test_at = -1;
};

// Null when there is none of this name.
const Builtin* FindFilter(absl::string_view name);
const Builtin* FindTest(absl::string_view name);
const Builtin* FindFunction(absl::string_view name);
const Builtin* FindMethod(absl::string_view name);

// All names of one of the tables above, for messages.
std::string FilterNames();
std::string TestNames();

// The items that `for` walks through: of a list its items, of a dictionary its keys, of a string its
// characters, of an undefined value none. InvalidArgument for other values.
absl::StatusOr<std::vector<Value>> Items(RenderState& state, const Value& value);

// value.name or value["name"]: undefined when there is none. InvalidArgument when `value` itself is
// undefined.
absl::StatusOr<Value> GetAttribute(RenderState& state, const Value& value, absl::string_view name);

// `needle in haystack`.
absl::StatusOr<bool> Contains(RenderState& state, const Value& haystack, const Value& needle);

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_BUILTINS_H_
