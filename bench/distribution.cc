#include "bench/distribution.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"

namespace spillway::bench {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;

bool ParseTokens(absl::string_view text, int64_t* tokens) {
  return absl::SimpleAtoi(text, tokens) && *tokens >= 1 && *tokens <= kMaxTokens;
}

}  // namespace

double Random::Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

int64_t Random::Between(int64_t low, int64_t high) {
  SPILLWAY_CHECK(low <= high);
  const int64_t offset = static_cast<int64_t>(Uniform() * static_cast<double>(high - low + 1));
  return std::min(low + offset, high);
}

double Random::Exponential(double mean) { return -mean * std::log1p(-Uniform()); }

// Box and Muller 1958; the second value is not kept, so that a draw takes the same numbers every time.
double Random::Normal() {
  const double radius = std::sqrt(-2 * std::log1p(-Uniform()));
  return radius * std::cos(2 * std::numbers::pi * Uniform());
}

LengthDistribution LengthDistribution::Fixed(int64_t tokens) {
  LengthDistribution fixed;
  fixed.low_ = fixed.high_ = tokens;
  fixed.text_ = absl::StrCat("fixed:", tokens);
  return fixed;
}

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(absl::string_view text) {
  LengthDistribution parsed;
  parsed.text_ = std::string(text);
  absl::string_view rest = text;
  if (int64_t tokens = 0; ParseTokens(text, &tokens)) return Fixed(tokens);
  if (absl::ConsumePrefix(&rest, "fixed:")) {
    if (int64_t tokens = 0; ParseTokens(rest, &tokens)) return Fixed(tokens);
  } else if (absl::ConsumePrefix(&rest, "uniform:")) {
    const std::pair<absl::string_view, absl::string_view> ends =
        absl::StrSplit(rest, absl::MaxSplits('-', 1));
    if (ParseTokens(ends.first, &parsed.low_) && ParseTokens(ends.second, &parsed.high_) &&
        parsed.low_ <= parsed.high_) {
      return parsed;
    }
  } else if (absl::ConsumePrefix(&rest, "lognormal:")) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(rest, absl::MaxSplits(',', 1));
    double mean = 0;
    if (absl::SimpleAtod(parts.first, &mean) && absl::SimpleAtod(parts.second, &parsed.sigma_) && mean >= 1 &&
        mean <= static_cast<double>(kMaxTokens) && parsed.sigma_ >= 0 && parsed.sigma_ <= 5) {
      parsed.kind_ = Kind::kLogNormal;
      parsed.mu_ = std::log(mean) - parsed.sigma_ * parsed.sigma_ / 2;
      return parsed;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text,
                   "\" is not a distribution of lengths: fixed:N, uniform:A-B (1 <= A <= B) or "
                   "lognormal:MEAN,SIGMA (MEAN >= 1, 0 <= SIGMA <= 5)"));
}

int64_t LengthDistribution::Draw(Random& random, int64_t limit) const {
  const int64_t tokens =
      kind_ == Kind::kUniform
          ? random.Between(low_, high_)
          : std::llround(std::min(std::exp(mu_ + sigma_ * random.Normal()), static_cast<double>(kMaxTokens)));
  return std::clamp<int64_t>(tokens, 1, std::max<int64_t>(limit, 1));
}

absl::Status ParseFlagValue(absl::string_view text, LengthDistribution* value) {
  absl::StatusOr<LengthDistribution> parsed = LengthDistribution::Parse(text);
  if (!parsed.ok()) return std::move(parsed).status();
  *value = *std::move(parsed);
  return absl::OkStatus();
}

}  // namespace spillway::bench
