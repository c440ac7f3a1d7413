#include "profiler/machine_profile.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace spillway::profiler {
namespace {

// Physics, generously: what no machine of this decade does or would be bearable.
constexpr double kRateMin = 1e4, kRateMax = 1e14;
constexpr double kBytesMax = 1e15;
constexpr double kSecondsMax = 1e5;
constexpr double kUnitsMax = 1e15;
constexpr double kFlopRateMax = 1e17;
// A batch as large as any: rows of it, reads by them, bytes of a copy. Costs of these are within kSecondsMax,
// so that plans' numbers are in the range that is solved for.
constexpr double kRowsMax = 1e5, kReadsMax = 1e8, kCopyBytesMax = kSecondsMax * kRateMin;

class Validator {
 public:
  void InRange(double value, double low, double high, absl::string_view field) {
    if (value >= low && value <= high) return;
    Fail(absl::StrFormat("%s is %.9g; it must lie in [%.9g, %.9g]", field, value, low, high));
  }

  // `last_slope_min`: what cannot be done faster per unit, however many. Costs of one unit and of `units_max`
  // are no less than nothing and bearable.
  void Curve(const CostCurve& curve, absl::string_view field, double units_max, double last_slope_min = 0) {
    InRange(static_cast<double>(curve.pieces.size()), 1, CostCurve::kMaxPieces,
            absl::StrCat(field, ".pieces' number"));
    double slope_before = 0;
    for (const CostPiece& piece : curve.pieces) {
      InRange(piece.fixed_s, -kSecondsMax, kSecondsMax, absl::StrCat(field, ".pieces.fixed_s"));
      InRange(piece.per_unit_s, slope_before, kSecondsMax, absl::StrCat(field, ".pieces.per_unit_s"));
      slope_before = std::max(slope_before, piece.per_unit_s);
    }
    if (!curve.pieces.empty()) {
      InRange(curve.pieces.back().per_unit_s, last_slope_min, kSecondsMax,
              absl::StrCat("the last of ", field, ".pieces.per_unit_s"));
      for (const double units : {1.0, units_max}) {
        InRange(CostOf(curve, units), 0, kSecondsMax,
                absl::StrFormat("the cost of %g units by %s.pieces", units, field));
      }
    }
    for (const CostSample& sample : curve.samples) {
      InRange(sample.units, 0, kUnitsMax, absl::StrCat(field, ".samples.units"));
      InRange(sample.seconds, 0, kSecondsMax, absl::StrCat(field, ".samples.seconds"));
    }
  }

  absl::Status status() && { return std::move(status_); }

 private:
  // What the pieces say, below nothing too. REQUIRES: there are pieces.
  static double CostOf(const CostCurve& curve, double units) {
    double seconds = -std::numeric_limits<double>::infinity();
    for (const CostPiece& piece : curve.pieces) {
      seconds = std::max(seconds, piece.fixed_s + piece.per_unit_s * units);
    }
    return seconds;
  }

  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("profile: ", what));
  }
  absl::Status status_;
};

void ValidateCopies(const CopyRates& rates, absl::string_view field, Validator& v) {
  v.InRange(rates.bytes_per_s, kRateMin, kRateMax, absl::StrCat(field, ".bytes_per_s"));
  v.InRange(rates.overhead_s, 0, 1, absl::StrCat(field, ".overhead_s"));
  v.Curve(rates.single, absl::StrCat(field, ".single"), kCopyBytesMax, 1 / kRateMax);
  v.Curve(rates.merged, absl::StrCat(field, ".merged"), kCopyBytesMax, 1 / kRateMax);
  if (!rates.batched.pieces.empty()) {
    v.Curve(rates.batched, absl::StrCat(field, ".batched"), kCopyBytesMax, 1 / kRateMax);
  }
}

void ValidateModel(const ProfiledModel& model, Validator& v) {
  v.InRange(model.n_layers, 1, 1e4, "model.n_layers");
  v.InRange(model.d_model, 1, 1e6, "model.d_model");
  v.InRange(model.n_heads, 1, 1e5, "model.n_heads");
  v.InRange(model.n_kv_heads, 1, model.n_heads, "model.n_kv_heads");
  v.InRange(model.d_head, 1, 1e5, "model.d_head");
  v.InRange(model.vocab_size, 1, 1 << 24, "model.vocab_size");
  v.InRange(model.context_length, 0, 1e9, "model.context_length");
  v.InRange(model.element_bytes, 1, 4, "model.element_bytes");
  v.InRange(model.block_tokens, 1, 1024, "model.block_tokens");
  v.InRange(model.chunk_tokens, 0, 1e6, "model.chunk_tokens");
  v.InRange(model.layer_weight_bytes, 0, kBytesMax, "model.layer_weight_bytes");
  v.InRange(model.weight_bytes, 0, kBytesMax, "model.weight_bytes");
  v.InRange(model.layer_weight_bytes * model.n_layers, 0, model.weight_bytes,
            "model.layer_weight_bytes in all layers");
}

// "threads: 4; memory: 16 GiB" by name.
std::map<std::string, std::string> PartsOf(absl::string_view parts) {
  std::map<std::string, std::string> values;
  for (const absl::string_view part : absl::StrSplit(parts, "; ", absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(part, absl::MaxSplits(": ", 1));
    values[pair.first] = pair.second;
  }
  return values;
}

constexpr size_t kShownMax = 200;  // of a text in a file

// Where `saved` says otherwise than `now`, part by part. `whole`: it must say no more, either.
std::vector<std::string> Differences(absl::string_view saved, absl::string_view now, bool whole) {
  const std::map<std::string, std::string> before = PartsOf(saved), here = PartsOf(now);
  // The file's own words, which may be any.
  const auto shown = [](absl::string_view text) {
    return absl::Utf8SafeCHexEscape(text.substr(0, kShownMax));
  };
  std::vector<std::string> differences;
  for (const auto& [name, value] : here) {
    const auto old = before.find(name);
    if (old != before.end() && old->second == value) continue;
    const std::string said = old == before.end() ? "not said" : shown(old->second);
    differences.push_back(absl::StrCat(name, ": ", said, ", here ", value));
  }
  for (const auto& [name, value] : before) {
    if (!whole || here.contains(name)) continue;
    differences.push_back(absl::StrCat(shown(name), ": ", shown(value), ", not here"));
  }
  return differences;
}

absl::Status Differs(absl::string_view what, const std::vector<std::string>& differences) {
  return absl::FailedPreconditionError(absl::StrCat(
      "the profile was measured ", what, " (",
      differences.empty() ? "its digest is not that of its parts" : absl::StrJoin(differences, "; "),
      "); measure again with --reprofile, or name another file"));
}

}  // namespace

absl::Status ValidateProfile(const MachineProfile& profile) {
  Validator v;
  ValidateModel(profile.model, v);
  ValidateCopies(profile.copy_in, "copy_in", v);
  ValidateCopies(profile.copy_out, "copy_out", v);
  v.InRange(profile.copy_both_bytes_per_s, kRateMin, 2 * kRateMax, "copy_both_bytes_per_s");
  // Two products a token: 4 * d * d_kv FLOP, and a read costs 4 * d_q.
  const ProfiledModel& model = profile.model;
  const double d_kv = 1.0 * model.n_kv_heads * model.d_head;
  const double read_s_min = 4.0 * model.n_heads * model.d_head / kFlopRateMax;
  v.Curve(profile.rebuild, "rebuild", kRowsMax, 4.0 * model.d_model * d_kv / kFlopRateMax);
  v.Curve(profile.linear, "linear", kRowsMax);
  v.Curve(profile.head, "head", kRowsMax);
  v.Curve(profile.attention, "attention", kReadsMax, read_s_min);
  if (!profile.prefill_attention.pieces.empty()) {
    v.Curve(profile.prefill_attention, "prefill_attention", kReadsMax, read_s_min);
  }
  v.InRange(profile.compute_slowdown_by_link, 0.1, 1000, "compute_slowdown_by_link");
  v.InRange(profile.host_memory_bytes_per_s, kRateMin, kRateMax, "host_memory_bytes_per_s");
  v.InRange(profile.host_attention_bytes_per_s, 0, kRateMax, "host_attention_bytes_per_s");
  v.InRange(profile.host_attention_fixed_s, 0, 1, "host_attention_fixed_s");
  v.InRange(profile.device_memory_bytes, 0, kBytesMax, "device_memory_bytes");
  v.InRange(profile.host_memory_bytes, 0, kBytesMax, "host_memory_bytes");
  v.InRange(profile.measuring_s, 0, kSecondsMax, "measuring_s");
  return std::move(v).status();
}

absl::Status CheckProfileMatches(const MachineProfile& profile, const ProfileIdentity& identity) {
  const ProfileIdentity& saved = profile.identity;
  if (saved.machine != identity.machine) {
    return Differs("on another machine",
                   Differences(saved.machine_parts, identity.machine_parts, /*whole=*/true));
  }
  if (identity.model.empty()) {
    const std::vector<std::string> known =
        Differences(saved.model_parts, identity.model_parts, /*whole=*/false);
    return known.empty() ? absl::OkStatus() : Differs("for another model", known);
  }
  if (saved.model != identity.model) {
    return Differs("for another model", Differences(saved.model_parts, identity.model_parts, /*whole=*/true));
  }
  return absl::OkStatus();
}

}  // namespace spillway::profiler
