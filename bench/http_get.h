// One HTTP GET over plain TCP: enough to scrape a daemon's metrics.
#ifndef SPILLWAY_BENCH_HTTP_GET_H_
#define SPILLWAY_BENCH_HTTP_GET_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway::bench {

// The body of "http://HOST:PORT/PATH"; the scheme and the path (/metrics) may be left out. Blocks, for ten
// seconds at most. Errors name the address: Unavailable where nothing answers, Internal for any status but
// 200, ResourceExhausted beyond 16 MiB.
absl::StatusOr<std::string> HttpGet(absl::string_view url);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_HTTP_GET_H_
