#include "bench/split_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "profiler/profile_text.h"

namespace spillway::bench {

void SplitReport::Machine(const SplitMachine& machine) {
  const profiler::MachineProfile& profile = machine.profile();
  const kv::Geometry& geometry = machine.geometry();
  const double rebuild_s = profile.rebuild.At(profile.model.chunk_tokens) / profile.model.chunk_tokens;
  const double carry_s = static_cast<double>(geometry.beta_bytes()) / machine.link_bytes_per_s();
  const device::DeviceInfo& device = machine.device().info();
  Section(absl::StrFormat("%s, %s", machine.options().model.name, machine.DescribeLink()));
  Line(absl::StrFormat(
      "%d layers, d = %d; a token's K and V %d bytes a layer, its X %d; rebuilding a token takes "
      "%.2f of carrying it; profile's fit %.1f %% off at worst",
      geometry.n_layers, geometry.d, geometry.beta_bytes(), geometry.chi_bytes(), rebuild_s / carry_s,
      100 * profiler::WorstFitError(profile)));
  json_["machines"].push_back({{"model", machine.options().model.name},
                               {"link_mb_per_s", machine.options().link_mb_per_s},
                               {"device", device.name},
                               {"link", device.link},
                               {"driver", device.driver},
                               {"n_layers", geometry.n_layers},
                               {"d", geometry.d},
                               {"beta_bytes", geometry.beta_bytes()},
                               {"chi_bytes", geometry.chi_bytes()},
                               {"profiled_link_in_bytes_per_s", profile.copy_in.bytes_per_s},
                               {"profiled_rebuild_s_per_token", rebuild_s},
                               {"profile_fit_error", profiler::WorstFitError(profile)},
                               {"profile", nlohmann::json::parse(profiler::ProfileToJson(profile))}});
}

void SplitReport::Heading() {
  out_ << absl::StrFormat("  %-24s %-10s %8s %7s %10s %10s %7s %9s  %s\n", "batch", "mode", "resident",
                          "X share", "ms a step", "predicted", "error", "link busy", "predicted to bind");
}

void SplitReport::Row(const SplitRow& row) {
  const SplitMeasured& m = row.measured;
  out_ << absl::StrFormat("  %-24s %-10s %7.0f%% %7.2f %10.1f %10.1f %+6.1f%% %8.1f%%  %s\n",
                          row.batch.Describe(), row.mode, 100 * row.resident, m.x_share(), m.step_s() * 1e3,
                          m.plan.predicted_step_s * 1e3, 100 * (m.plan.predicted_step_s / m.step_s() - 1),
                          100 * m.link_busy_share(), scheduler::NameOf(m.plan.binding))
       << std::flush;
  nlohmann::json json = m.ToJson();
  json["model"] = row.model;
  json["link_mb_per_s"] = row.link_mb_per_s;
  json["mode"] = row.mode;
  json["resident_share"] = row.resident;
  json["batch"] = row.batch.ToJson();
  json["transfer_limit_s"] = row.transfer_limit_s;
  json_["rows"].push_back(std::move(json));
  rows_.push_back(row);
}

void SplitReport::Ratio(const std::string& name, std::optional<double> value) {
  json_["ratios"][name] = value.has_value() ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

void SplitReport::PrintRatios() {
  Section("Ratios of this run");
  for (const auto& [name, value] : json_["ratios"].items()) {
    Line(value.is_null() ? absl::StrFormat("%-30s not measured yet", name)
                         : absl::StrFormat("%-30s %.3f", name, value.get<double>()));
  }
}

const SplitRow* SplitReport::Find(const std::string& model, double link_mb_per_s, const std::string& mode,
                                  double resident) const {
  const SplitRow* found = nullptr;
  for (const SplitRow& row : rows_) {
    if (row.model != model || row.link_mb_per_s != link_mb_per_s || row.mode != mode ||
        row.resident != resident)
      continue;
    if (found == nullptr || row.batch.cached_tokens() > found->batch.cached_tokens()) found = &row;
  }
  return found;
}

}  // namespace spillway::bench
