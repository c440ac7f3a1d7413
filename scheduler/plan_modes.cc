#include "scheduler/plan_modes.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace spillway::scheduler {
namespace {

using exec::SplitMode;

absl::Status NotA(absl::string_view flag, absl::string_view text, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", text, ": use ", allowed));
}

absl::StatusOr<double> ParseFraction(absl::string_view flag, absl::string_view text,
                                     absl::string_view number) {
  double fraction = 0;
  // Not a comparison that a NaN passes.
  if (!absl::SimpleAtod(number, &fraction) || !(fraction >= 0 && fraction <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, "=", text, ": the fraction must lie in 0..1, e.g. fixed:0.5"));
  }
  return fraction;
}

constexpr absl::string_view kSplits = "auto, serial, transfer, rebuild or fixed:F with F in 0..1";
constexpr absl::string_view kResidencies = "auto, off or fixed:F with F in 0..1";

}  // namespace

absl::StatusOr<PlanModes> ParsePlanModes(absl::string_view split, absl::string_view residency,
                                         absl::string_view schedule) {
  PlanModes modes;
  absl::string_view number = split;
  if (split == "serial") {
    modes.split = SplitMode::kSerial;
  } else if (split == "transfer") {
    modes.split = SplitMode::kTransfer;
  } else if (split == "rebuild") {
    modes.split = SplitMode::kRebuild;
  } else if (absl::ConsumePrefix(&number, "fixed:")) {
    modes.split = SplitMode::kFixed;
    SPILLWAY_ASSIGN_OR_RETURN(modes.split_fraction, ParseFraction("split", split, number));
  } else if (split != "auto") {
    return NotA("split", split, kSplits);
  }
  number = residency;
  if (residency == "off") {
    modes.residency = ResidencyMode::kOff;
  } else if (absl::ConsumePrefix(&number, "fixed:")) {
    modes.residency = ResidencyMode::kFixed;
    SPILLWAY_ASSIGN_OR_RETURN(modes.residency_fraction, ParseFraction("residency", residency, number));
  } else if (residency != "auto") {
    return NotA("residency", residency, kResidencies);
  }
  if (schedule == "row") {
    modes.schedule = exec::Schedule::kRow;
  } else if (schedule == "column") {
    modes.schedule = exec::Schedule::kColumn;
  } else if (schedule != "auto") {
    return NotA("schedule", schedule, "auto, row or column");
  }
  return modes;
}

absl::Status CheckPlanModes(const PlanModes& modes, const ServedCache& cache) {
  if (!cache.has_link) {
    if (modes.split != SplitMode::kAuto) {
      return absl::FailedPreconditionError(
          absl::StrCat("--split=", SplitText(modes),
                       ": this device reads the cache where it lies, so that nothing is carried or rebuilt; "
                       "use --split=auto"));
    }
    if (modes.residency != ResidencyMode::kAuto) {
      return absl::FailedPreconditionError(
          absl::StrCat("--residency=", ResidencyText(modes),
                       ": this device reads the cache where it lies, so that every token is resident; use "
                       "--residency=auto"));
    }
    if (modes.schedule == exec::Schedule::kColumn) {
      return absl::FailedPreconditionError(
          "--schedule=column: this device has its weights in place, so that batches have no load to share; "
          "use "
          "--schedule=row or auto");
    }
    return absl::OkStatus();
  }
  if (!cache.has_profile && modes.split != SplitMode::kAuto && modes.split != SplitMode::kTransfer) {
    return absl::FailedPreconditionError(
        absl::StrCat("--split=", SplitText(modes),
                     ": steps are planned with a profile; give one with --profile, or use --split=transfer"));
  }
  const bool needs_x =
      modes.split == SplitMode::kRebuild || (modes.split == SplitMode::kFixed && modes.split_fraction > 0);
  if (needs_x && cache.chi_bytes >= cache.beta_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("--split=", SplitText(modes), ": a token of this model takes ", cache.chi_bytes,
                     " bytes a layer as X and ", cache.beta_bytes,
                     " as keys and values, so X is not stored; use --split=auto, serial or transfer"));
  }
  return absl::OkStatus();
}

std::string SplitText(const PlanModes& modes) {
  switch (modes.split) {
    case SplitMode::kAuto:
      return "auto";
    case SplitMode::kSerial:
      return "serial";
    case SplitMode::kTransfer:
      return "transfer";
    case SplitMode::kRebuild:
      return "rebuild";
    case SplitMode::kFixed:
      return absl::StrCat("fixed:", modes.split_fraction);
  }
  return "";
}

std::string ResidencyText(const PlanModes& modes) {
  switch (modes.residency) {
    case ResidencyMode::kAuto:
      return "auto";
    case ResidencyMode::kOff:
      return "off";
    case ResidencyMode::kFixed:
      return absl::StrCat("fixed:", modes.residency_fraction);
  }
  return "";
}

}  // namespace spillway::scheduler
