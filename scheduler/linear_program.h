// LinearProgram: minimise a sum of columns under rows, by GLPK's simplex method. linear_program.cc is the one
// file that knows GLPK.
//
// Every number passes a check on its way to the solver, and GLPK's failed assertions, which would end the
// process, are errors. GLPK keeps its environment per thread: a program is made, solved and destroyed by one.
#ifndef SPILLWAY_SCHEDULER_LINEAR_PROGRAM_H_
#define SPILLWAY_SCHEDULER_LINEAR_PROGRAM_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"

struct glp_prob;

namespace spillway::scheduler {

// Coefficients should be near one: what is smaller by far counts as nothing.
class LinearProgram {
 public:
  static constexpr double kUnbounded = std::numeric_limits<double>::infinity();
  struct Column {
    int index;
    double coefficient;
  };

  LinearProgram();
  ~LinearProgram();

  // low <= column <= high, and what it adds to the objective. Returns its index.
  int AddColumn(const std::string& name, double low, double high, double objective = 0);
  void AddToObjective(int column, double coefficient);
  // The sum of the columns is, is at most, or is at least `value`.
  void AddEqual(const std::string& name, double value, const std::vector<Column>& columns);
  void AddAtMost(const std::string& name, double value, const std::vector<Column>& columns);
  void AddAtLeast(const std::string& name, double value, const std::vector<Column>& columns);

  // FailedPrecondition: no values obey every row. Internal: a number was not finite, or the solver gave up.
  absl::Status Solve();
  // REQUIRES: Solve() was OK.
  double Value(int column) const;
  int32_t iterations() const;

 private:
  struct Deleter {
    void operator()(glp_prob* problem) const;
  };
  void AddRow(const std::string& name, int kind, double value, const std::vector<Column>& columns);
  double Admit(double value);

  std::unique_ptr<glp_prob, Deleter> problem_;
  bool finite_ = true;
};

// Frees what the solver keeps for the calling thread between programs. A thread that solved calls it last.
void ReleaseSolver();

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_LINEAR_PROGRAM_H_
