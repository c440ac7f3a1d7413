#include "profiler/profile_text.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"

namespace spillway::profiler {
namespace {

void AppendCopies(std::string& out, absl::string_view name, const CopyRates& rates) {
  absl::StrAppendFormat(&out, "  %-22s %10.3f GB/s, %.1f us of its own a copy; one at a time", name,
                        rates.bytes_per_s / 1e9, rates.overhead_s * 1e6);
  for (const CostSample& sample : rates.single.samples) {
    absl::StrAppendFormat(&out, ", %s %.3f", FormatBytes(static_cast<int64_t>(sample.units)),
                          sample.units / sample.seconds / 1e9);
  }
  absl::StrAppend(&out, "\n");
}

// First and last sample, the slope between, and the fit.
void AppendCurve(std::string& out, absl::string_view name, const CostCurve& curve, absl::string_view unit) {
  absl::StrAppendFormat(&out, "  %-22s", name);
  if (!curve.samples.empty()) {
    const CostSample& first = curve.samples.front();
    const CostSample& last = curve.samples.back();
    absl::StrAppendFormat(&out, " %10.3f ms for %.0f %s, %.3f ms for %.0f;", first.seconds * 1e3, first.units,
                          unit, last.seconds * 1e3, last.units);
  }
  absl::StrAppendFormat(&out, " %.4g us for each more; fit %.1f %% off at the median, %.1f %% at most\n",
                        curve.pieces.back().per_unit_s * 1e6, curve.fit_error_median * 100,
                        curve.fit_error_max * 100);
}

}  // namespace

absl::string_view NameOf(ProfileSource source) {
  switch (source) {
    case ProfileSource::kMeasured:
      return "measured";
    case ProfileSource::kMeasuredEmulatedLink:
      return "measured, emulated link";
    case ProfileSource::kPublicFigures:
      return "public figures";
  }
  return "unknown";
}

double WorstFitError(const MachineProfile& profile) {
  double worst = 0;
  for (const CostCurve* curve :
       {&profile.rebuild, &profile.linear, &profile.head, &profile.attention, &profile.prefill_attention}) {
    worst = std::max(worst, curve->fit_error_median);
  }
  return worst;
}

std::string FormatProfile(const MachineProfile& profile) {
  const ProfiledModel& model = profile.model;
  std::string out =
      absl::StrCat("profile  ", profile.description, "\nsource   ", NameOf(profile.source), "\nmachine  ",
                   profile.identity.machine_parts, "\nmodel    ", profile.identity.model_parts, "\n\n");
  AppendCopies(out, "link in", profile.copy_in);
  AppendCopies(out, "link out", profile.copy_out);
  absl::StrAppendFormat(&out, "  %-22s %10.3f GB/s\n", "link both ways", profile.copy_both_bytes_per_s / 1e9);
  absl::StrAppendFormat(&out, "  %-22s %10.3f GB/s\n", "host memory", profile.host_memory_bytes_per_s / 1e9);
  if (profile.host_attention_bytes_per_s > 0) {
    absl::StrAppendFormat(&out, "  %-22s %10.3f GB/s\n", "host attention",
                          profile.host_attention_bytes_per_s / 1e9);
  }
  absl::StrAppend(&out, "\none layer");
  if (profile.compute_slowdown_by_link != 1) {
    absl::StrAppendFormat(&out, ", link in busy (%.2f times its time at rest)",
                          profile.compute_slowdown_by_link);
  }
  absl::StrAppend(&out, "\n");
  AppendCurve(out, "linear part", profile.linear, "rows");
  AppendCurve(out, "K and V from X", profile.rebuild, "tokens");
  AppendCurve(out, "attention, decode", profile.attention, "reads");
  if (!profile.prefill_attention.pieces.empty()) {
    AppendCurve(out, "attention, prefill", profile.prefill_attention, "reads");
  }
  absl::StrAppend(&out, "all layers\n");
  AppendCurve(out, "head", profile.head, "rows");
  absl::StrAppend(&out, "\n  weights ", FormatBytes(static_cast<int64_t>(model.weight_bytes)), ", a layer's ",
                  FormatBytes(static_cast<int64_t>(model.layer_weight_bytes)), "; a token's K and V ",
                  static_cast<int64_t>(model.beta_bytes()), " B a layer, its X ",
                  static_cast<int64_t>(model.chi_bytes()), " B\n");
  // Rebuilding beats carrying where a token's products take less than its bytes: d*B/P for 16 bit.
  const double rebuild_s = profile.rebuild.pieces.back().per_unit_s;
  absl::StrAppendFormat(&out, "  rebuilding a token takes %.2f of carrying its K and V\n",
                        rebuild_s * profile.copy_in.bytes_per_s / model.beta_bytes());
  if (profile.measuring_s > 0) absl::StrAppendFormat(&out, "  measured in %.1f s\n", profile.measuring_s);
  return out;
}

}  // namespace spillway::profiler
