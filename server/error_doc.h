// The table of errors in docs/api.md, from base/reason.
#ifndef SPILLWAY_SERVER_ERROR_DOC_H_
#define SPILLWAY_SERVER_ERROR_DOC_H_

#include <string>

namespace spillway::server {

std::string ErrorsDoc();

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_ERROR_DOC_H_
