#include "profiler/machine_profile.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace spillway::profiler {
namespace {

// Physics, generously: what no machine of this decade does or would be bearable.
constexpr double kRateMin = 1e4, kRateMax = 1e14;
constexpr double kBytesMax = 1e15;
constexpr double kSecondsMax = 1e5;
constexpr double kUnitsMax = 1e15;

class Validator {
 public:
  void InRange(double value, double low, double high, absl::string_view field) {
    if (value >= low && value <= high) return;
    Fail(absl::StrFormat("%s is %g; it must lie in [%g, %g]", field, value, low, high));
  }

  void Curve(const CostCurve& curve, absl::string_view field) {
    InRange(static_cast<double>(curve.pieces.size()), 1, CostCurve::kMaxPieces,
            absl::StrCat(field, ".pieces' number"));
    double slope_before = 0;
    for (const CostPiece& piece : curve.pieces) {
      InRange(piece.fixed_s, -kSecondsMax, kSecondsMax, absl::StrCat(field, ".pieces.fixed_s"));
      InRange(piece.per_unit_s, slope_before, kSecondsMax, absl::StrCat(field, ".pieces.per_unit_s"));
      slope_before = std::max(slope_before, piece.per_unit_s);
    }
    for (const CostSample& sample : curve.samples) {
      InRange(sample.units, 0, kUnitsMax, absl::StrCat(field, ".samples.units"));
      InRange(sample.seconds, 0, kSecondsMax, absl::StrCat(field, ".samples.seconds"));
    }
  }

  absl::Status status() && { return std::move(status_); }

 private:
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat("profile: ", what));
  }
  absl::Status status_;
};

void ValidateCopies(const CopyRates& rates, absl::string_view field, Validator& v) {
  v.InRange(rates.bytes_per_s, kRateMin, kRateMax, absl::StrCat(field, ".bytes_per_s"));
  v.InRange(rates.overhead_s, 0, 1, absl::StrCat(field, ".overhead_s"));
  v.Curve(rates.single, absl::StrCat(field, ".single"));
  v.Curve(rates.merged, absl::StrCat(field, ".merged"));
  if (!rates.batched.pieces.empty()) v.Curve(rates.batched, absl::StrCat(field, ".batched"));
}

void ValidateModel(const ProfiledModel& model, Validator& v) {
  v.InRange(model.n_layers, 1, 1e4, "model.n_layers");
  v.InRange(model.d_model, 1, 1e6, "model.d_model");
  v.InRange(model.n_heads, 1, 1e5, "model.n_heads");
  v.InRange(model.n_kv_heads, 1, model.n_heads, "model.n_kv_heads");
  v.InRange(model.d_head, 1, 1e5, "model.d_head");
  v.InRange(model.vocab_size, 1, 1 << 24, "model.vocab_size");
  v.InRange(model.element_bytes, 1, 4, "model.element_bytes");
  v.InRange(model.block_tokens, 1, 1024, "model.block_tokens");
  v.InRange(model.layer_weight_bytes, 0, kBytesMax, "model.layer_weight_bytes");
  v.InRange(model.weight_bytes, 0, kBytesMax, "model.weight_bytes");
}

}  // namespace

absl::Status ValidateProfile(const MachineProfile& profile) {
  Validator v;
  ValidateModel(profile.model, v);
  ValidateCopies(profile.copy_in, "copy_in", v);
  ValidateCopies(profile.copy_out, "copy_out", v);
  v.InRange(profile.copy_both_bytes_per_s, kRateMin, 2 * kRateMax, "copy_both_bytes_per_s");
  v.Curve(profile.rebuild, "rebuild");
  v.Curve(profile.linear, "linear");
  v.Curve(profile.head, "head");
  v.Curve(profile.attention, "attention");
  v.InRange(profile.host_memory_bytes_per_s, kRateMin, kRateMax, "host_memory_bytes_per_s");
  v.InRange(profile.host_attention_bytes_per_s, 0, kRateMax, "host_attention_bytes_per_s");
  v.InRange(profile.host_attention_fixed_s, 0, 1, "host_attention_fixed_s");
  v.InRange(profile.device_memory_bytes, 0, kBytesMax, "device_memory_bytes");
  v.InRange(profile.host_memory_bytes, 0, kBytesMax, "host_memory_bytes");
  v.InRange(profile.measuring_s, 0, kSecondsMax, "measuring_s");
  return std::move(v).status();
}

absl::Status CheckProfileMatches(const MachineProfile& profile, const ProfileIdentity& identity) {
  if (profile.identity.machine != identity.machine) {
    return absl::FailedPreconditionError(
        absl::StrCat("the profile was measured on another machine (", profile.identity.machine_parts,
                     "; this one is ", identity.machine_parts, "); measure again with --reprofile"));
  }
  if (profile.identity.model != identity.model) {
    return absl::FailedPreconditionError(
        absl::StrCat("the profile was measured for another model (", profile.identity.model_parts,
                     "; this one is ", identity.model_parts, "); measure again with --reprofile"));
  }
  return absl::OkStatus();
}

}  // namespace spillway::profiler
