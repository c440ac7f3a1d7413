#include "scheduler/linear_program.h"

#include <glpk.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>

#include "absl/strings/str_cat.h"

namespace spillway::scheduler {
namespace {

// Beside coefficients near one, smaller ones are noise: subnormal numbers never reach the solver.
constexpr double kNegligible = 1e-18;

// GLPK ends the process where one of its assertions fails, which rounding alone can bring about; its hook may
// jump out instead. Its environment is then good for nothing but to be freed, with all that was made in it:
// false. No object lives in the frames that are left.
bool RunSimplex(glp_prob* problem, const glp_smcp& parameters, int* failure) {
  std::jmp_buf back;
  if (setjmp(back) != 0) {
    glp_free_env();
    return false;
  }
  glp_error_hook([](void* info) { std::longjmp(*static_cast<std::jmp_buf*>(info), 1); }, &back);
  // The all-slack start is not feasible; the advanced basis saves most of the first phase.
  glp_adv_basis(problem, 0);
  *failure = glp_simplex(problem, &parameters);
  glp_error_hook(nullptr, nullptr);
  return true;
}

}  // namespace

LinearProgram::LinearProgram() : problem_(glp_create_prob()) {
  glp_term_out(GLP_OFF);
  glp_set_obj_dir(problem_.get(), GLP_MIN);
}

LinearProgram::~LinearProgram() = default;

void LinearProgram::Deleter::operator()(glp_prob* problem) const { glp_delete_prob(problem); }

int LinearProgram::AddColumn(const std::string& name, double low, double high, double objective) {
  const int column = glp_add_cols(problem_.get(), 1);
  glp_set_col_name(problem_.get(), column, name.c_str());
  low = Admit(low);
  if (high == kUnbounded) {
    glp_set_col_bnds(problem_.get(), column, GLP_LO, low, 0);
  } else {
    high = std::max(low, Admit(high));
    glp_set_col_bnds(problem_.get(), column, low == high ? GLP_FX : GLP_DB, low, high);
  }
  glp_set_obj_coef(problem_.get(), column, Admit(objective));
  return column;
}

void LinearProgram::AddToObjective(int column, double coefficient) {
  glp_set_obj_coef(problem_.get(), column, glp_get_obj_coef(problem_.get(), column) + Admit(coefficient));
}

void LinearProgram::AddEqual(const std::string& name, double value, const std::vector<Column>& columns) {
  AddRow(name, GLP_FX, value, columns);
}

void LinearProgram::AddAtMost(const std::string& name, double value, const std::vector<Column>& columns) {
  AddRow(name, GLP_UP, value, columns);
}

void LinearProgram::AddAtLeast(const std::string& name, double value, const std::vector<Column>& columns) {
  AddRow(name, GLP_LO, value, columns);
}

void LinearProgram::AddRow(const std::string& name, int kind, double value,
                           const std::vector<Column>& columns) {
  const int row = glp_add_rows(problem_.get(), 1);
  glp_set_row_name(problem_.get(), row, name.c_str());
  value = Admit(value);
  glp_set_row_bnds(problem_.get(), row, kind, value,
                   value);  // of a bound that the kind has not, nothing is read
  std::vector<int> indices = {0};
  std::vector<double> values = {0};
  for (const Column& column : columns) {
    const double coefficient = Admit(column.coefficient);
    if (coefficient == 0) continue;
    indices.push_back(column.index);
    values.push_back(coefficient);
  }
  glp_set_mat_row(problem_.get(), row, static_cast<int>(indices.size()) - 1, indices.data(), values.data());
}

absl::Status LinearProgram::Solve() {
  if (!finite_) return absl::InternalError("a number of the problem is not finite");
  glp_smcp parameters;
  glp_init_smcp(&parameters);
  parameters.msg_lev = GLP_MSG_OFF;
  parameters.it_lim = 10'000;
  parameters.tm_lim = 1'000;
  parameters.tol_dj = 1e-9;  // below what ties are decided by
  int failure = 0;
  if (!RunSimplex(problem_.get(), parameters, &failure)) {
    (void)problem_.release();  // it went with the environment
    return absl::InternalError("the simplex method met numbers that it cannot work with");
  }
  const int status = glp_get_status(problem_.get());
  if (failure == 0 && status == GLP_OPT) return absl::OkStatus();
  if (failure == 0 && status == GLP_NOFEAS) return absl::FailedPreconditionError("no values obey every row");
  return absl::InternalError(
      absl::StrCat("the simplex method gave up (code ", failure, ", status ", status, ")"));
}

double LinearProgram::Value(int column) const { return glp_get_col_prim(problem_.get(), column); }

int32_t LinearProgram::iterations() const { return glp_get_it_cnt(problem_.get()); }

double LinearProgram::Admit(double value) {
  if (!std::isfinite(value)) {
    finite_ = false;
    return 0;
  }
  return std::abs(value) < kNegligible ? 0 : value;
}

void ReleaseSolver() { glp_free_env(); }

}  // namespace spillway::scheduler
