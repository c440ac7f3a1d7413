// Lengths and arrival times, drawn from a seed. Our own arithmetic over std::mt19937_64, whose output the
// standard fixes, so that a seed means the same load on every machine.
#ifndef SPILLWAY_BENCH_DISTRIBUTION_H_
#define SPILLWAY_BENCH_DISTRIBUTION_H_

#include <cstdint>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway::bench {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  double Uniform();                            // [0, 1)
  int64_t Between(int64_t low, int64_t high);  // low..high, both included. REQUIRES: low <= high
  double Exponential(double mean);
  double Normal();  // mean 0, deviation 1

 private:
  std::mt19937_64 engine_;
};

// How long prompts or outputs are, in tokens: "fixed:128", "uniform:16-512", "lognormal:200,0.8" (mean of the
// lengths themselves, and sigma of their logarithm). A value.
class LengthDistribution {
 public:
  static LengthDistribution Fixed(int64_t tokens);
  // InvalidArgument says what is wanted.
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view text);

  // In 1..limit: what falls outside is moved to the nearest end.
  int64_t Draw(Random& random, int64_t limit) const;
  const std::string& text() const { return text_; }

 private:
  enum class Kind { kUniform, kLogNormal };

  Kind kind_ = Kind::kUniform;
  int64_t low_ = 1;  // kUniform
  int64_t high_ = 1;
  double mu_ = 0;  // kLogNormal
  double sigma_ = 0;
  std::string text_;
};

absl::Status ParseFlagValue(absl::string_view text, LengthDistribution* value);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_DISTRIBUTION_H_
