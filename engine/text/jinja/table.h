// Look-up in a table of builtins, for the files that define one.
#ifndef SPILLWAY_ENGINE_TEXT_JINJA_TABLE_H_
#define SPILLWAY_ENGINE_TEXT_JINJA_TABLE_H_

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/text/jinja/builtins.h"

namespace spillway::text::jinja {

inline const Builtin* FindIn(const std::vector<Builtin>& table, absl::string_view name) {
  for (const Builtin& builtin : table) {
    if (builtin.name == name) return &builtin;
  }
  return nullptr;
}

inline std::string NamesOf(const std::vector<Builtin>& table) {
  std::string names;
  for (const Builtin& builtin : table) absl::StrAppend(&names, names.empty() ? "" : ", ", builtin.name);
  return names;
}

}  // namespace spillway::text::jinja

#endif  // SPILLWAY_ENGINE_TEXT_JINJA_TABLE_H_
