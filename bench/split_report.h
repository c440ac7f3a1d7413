// SplitReport: the split benchmark's table and its JSON, row by row.
#ifndef SPILLWAY_BENCH_SPLIT_REPORT_H_
#define SPILLWAY_BENCH_SPLIT_REPORT_H_

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "bench/split_batch.h"
#include "bench/split_machine.h"
#include "bench/split_measure.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

struct SplitRow {
  std::string model;
  double link_mb_per_s = 0;
  std::string mode;
  double resident = 0;  // share of the tokens that was to be resident
  SplitBatch batch;
  double transfer_limit_s = 0;  // what the link takes for all distinct tokens as keys and values
  SplitMeasured measured;
};

// Thread-compatible. Borrows the stream.
class SplitReport {
 public:
  SplitReport(nlohmann::json head, std::ostream& out) : json_(std::move(head)), out_(out) {}

  void Machine(const SplitMachine& machine);
  void Heading();
  void Row(const SplitRow& row);
  void Line(const std::string& text) { out_ << "  " << text << "\n" << std::flush; }
  void Section(const std::string& title) { out_ << "\n" << title << "\n" << std::flush; }
  // A speed ratio, or another number of one run; none: it cannot be measured yet.
  void Ratio(const std::string& name, std::optional<double> value);
  void PrintRatios();
  // Another part of the JSON.
  nlohmann::json& operator[](const std::string& key) { return json_[key]; }

  // The row of the sweep with this mode and share of resident tokens whose batch has the most cached tokens,
  // at the link's rate; null where there is none.
  const SplitRow* Find(const std::string& model, double link_mb_per_s, const std::string& mode,
                       double resident) const;
  const std::vector<SplitRow>& rows() const { return rows_; }
  const nlohmann::json& json() const { return json_; }

 private:
  nlohmann::json json_;
  std::ostream& out_;
  std::vector<SplitRow> rows_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_REPORT_H_
