// spillway-docs: prints the documents that are generated from tables in the code.
//
//   spillway-docs configuration > docs/configuration.md
//   spillway-docs metrics > docs/metrics.md
//   spillway-docs errors            (the table between the marks in docs/api.md)
#include <cstdio>
#include <string>

#include "server/error_doc.h"
#include "server/metric_table.h"
#include "server/settings.h"

int main(int argc, char** argv) {
  const std::string what = argc == 2 ? argv[1] : "";
  std::string text;
  if (what == "configuration") text = spillway::server::ConfigurationDoc();
  if (what == "metrics") text = spillway::server::MetricsDoc();
  if (what == "errors") text = spillway::server::ErrorsDoc();
  if (text.empty()) {
    std::fputs("usage: spillway-docs configuration|metrics|errors\n", stderr);
    return 2;
  }
  std::fputs(text.c_str(), stdout);
  return 0;
}
