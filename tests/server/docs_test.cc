// Documents that are generated from tables, against the files in docs/.
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "server/error_doc.h"
#include "server/metric_table.h"
#include "server/settings.h"

namespace spillway::server {
namespace {

std::string ReadDoc(const std::string& name) {
  std::ifstream file(std::string(SPILLWAY_SOURCE_DIR "/docs/") + name);
  EXPECT_TRUE(file.good()) << name;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Docs, ConfigurationIsTheTableOfFlags) {
  EXPECT_EQ(ReadDoc("configuration.md"), ConfigurationDoc())
      << "run: spillway-docs configuration > docs/configuration.md";
}

TEST(Docs, MetricsAreTheTableOfMetrics) {
  EXPECT_EQ(ReadDoc("metrics.md"), MetricsDoc()) << "run: spillway-docs metrics > docs/metrics.md";
}

TEST(Docs, ErrorsAreTheTableOfReasons) {
  const std::string doc = ReadDoc("api.md");
  const std::string begin = "<!-- errors:begin -->\n";
  const size_t from = doc.find(begin);
  const size_t to = doc.find("<!-- errors:end -->");
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  EXPECT_EQ(doc.substr(from + begin.size(), to - from - begin.size()), ErrorsDoc())
      << "put the output of `spillway-docs errors` between the marks in docs/api.md";
}

TEST(MetricTable, NamesAreUniqueAndIdsInOrder) {
  std::set<std::string> names;
  for (size_t i = 0; i < AllMetrics().size(); ++i) {
    const MetricInfo& info = AllMetrics()[i];
    EXPECT_EQ(static_cast<size_t>(info.id), i) << info.name;
    EXPECT_TRUE(names.insert(std::string(info.name)).second) << info.name;
    EXPECT_FALSE(info.help.empty()) << info.name;
    EXPECT_EQ(info.buckets.empty(), info.type != MetricType::kHistogram) << info.name;
    EXPECT_TRUE(std::is_sorted(info.buckets.begin(), info.buckets.end())) << info.name;
  }
  EXPECT_EQ(AllMetrics().size(), static_cast<size_t>(kMetrics));
}

}  // namespace
}  // namespace spillway::server
