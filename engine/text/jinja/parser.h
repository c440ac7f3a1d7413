// Template source to a Program.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_PARSER_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_PARSER_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/ast.h"

namespace spillway::text::jinja {

// InvalidArgument: not Jinja; Unimplemented: Jinja that is not supported; ResourceExhausted: longer or deeper
// nested than a chat template has reason to be. Messages begin with the line.
absl::StatusOr<Program> Parse(absl::string_view source);

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_PARSER_H_
