// `spillway plan`: asks a daemon, or works from a saved profile alone.
#include <string>
#include <utility>

#include "base/bytes.h"
#include "client/answer.h"
#include "client/call_error.h"
#include "client/channel.h"
#include "client/commands.h"
#include "client/plan_kubernetes.h"
#include "profiler/machine_profile.h"
#include "scheduler/plan_explanation.h"
#include "spillway/v1/admin.grpc.pb.h"

namespace spillway::client {
namespace {

using scheduler::PlanAlternative;
using scheduler::PlanExplanation;
using scheduler::PlanQuery;

constexpr absl::string_view kUsage =
    "spillway plan: how a batch would be served: the split, what each resource takes and which binds, "
    "memory, "
    "and the\ntimes of other ways. From a daemon's profile, or with --profile from a saved one, without any "
    "daemon.\n\n"
    "usage: spillway plan [flags]\n\n"
    "Examples:\n"
    "  spillway plan --sequences=32 --context=8192\n"
    "  spillway plan --profile=h100.json --sequences=64 --context=16384 --host_pool=512GiB\n"
    "  spillway plan --device_memory=24GiB --stream_weights --json | jq .alternatives\n"
    "  spillway plan --profile=h100.json --sequences=64 --context=16384 --kubernetes > plan.yaml\n\n";

struct PlanFlags {
  PlanQuery query;
  std::string profile;
  bool json = false;
  bool kubernetes = false;
};

void AddSize(FlagTable& flags, absl::string_view name, double* target, absl::string_view help) {
  flags.AddSetter(name, "SIZE", help, [target](absl::string_view text) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(text);
    if (bytes.ok()) *target = static_cast<double>(*bytes);
    return bytes.status();
  });
}

void AddPlanFlags(FlagTable& flags, PlanFlags* plan) {
  PlanQuery& query = plan->query;
  flags.Section("Flags");
  flags.Add("profile", &plan->profile, "FILE", "Plan with this saved profile, without a daemon.");
  flags.Add("sequences", &query.sequences, "N", "Sequences that decode at once (1).");
  flags.Add("context", &query.context_tokens, "N",
            "Cached tokens of each. 0: 4096, or what the model was made for where that is less (0).");
  flags.Add("shared", &query.shared_tokens, "N", "Of these, a prefix that all share (0).");
  AddSize(flags, "device_memory", &query.device_memory_bytes,
          "Memory of the device. 0: the daemon's, or the profile's (0).");
  AddSize(flags, "host_pool", &query.host_pool_bytes,
          "Host memory for cached tokens. 0: the daemon's, or the profile's host memory (0).");
  AddSize(flags, "scratch", &query.scratch_bytes.emplace(-1),
          "Device memory for staging, tails and activations (the daemon's, or 1GiB, at most an eighth of the "
          "device's).");
  flags.AddSwitch("stream_weights", &query.stream_weights,
                  "Load the weights layer by layer in every step, instead of keeping them on the device.");
  flags.AddSwitch("json", &plan->json, "One JSON object, with every alternative's split.");
  flags.AddSwitch(
      "kubernetes", &plan->kubernetes,
      "With --profile: spillwayd's flags and the container's memory for this load, as a patch for "
      "deploy/kubernetes.");
}

v1::ExplainPlanRequest RequestOf(const PlanQuery& query) {
  v1::ExplainPlanRequest request;
  request.set_sequences(query.sequences);
  request.set_context_tokens(query.context_tokens);
  request.set_shared_tokens(query.shared_tokens);
  request.set_device_memory_bytes(static_cast<int64_t>(query.device_memory_bytes));
  request.set_host_pool_bytes(static_cast<int64_t>(query.host_pool_bytes));
  if (query.scratch_bytes.has_value()) request.set_scratch_bytes(static_cast<int64_t>(*query.scratch_bytes));
  request.set_stream_weights(query.stream_weights);
  return request;
}

PlanAlternative AlternativeOf(const v1::PlanAlternative& in) {
  PlanAlternative out;
  out.name = in.name();
  out.does_not_fit = in.does_not_fit();
  out.tokens_per_s = in.tokens_per_s();
  out.solution.step_s = in.step_s();
  scheduler::GroupSplit& split = out.solution.groups.emplace_back();
  split.resident_kv_tokens = in.resident_kv_tokens();
  split.resident_x_tokens = in.resident_x_tokens();
  split.carried_kv_tokens = in.carried_kv_tokens();
  split.carried_x_tokens = in.carried_x_tokens();
  split.host_attended_tokens = in.host_attended_tokens();
  // By name: a newer daemon may know more of them.
  for (int r = 0; r < exec::kResources; ++r) {
    const auto resource = static_cast<exec::Resource>(r);
    for (const v1::ResourceTime& time : in.resources()) {
      if (time.resource() != scheduler::NameOf(resource)) continue;
      out.solution.resource_s[static_cast<size_t>(r)] = time.seconds();
      if (time.binds()) out.solution.binding = resource;
    }
  }
  return out;
}

PlanExplanation ExplanationOf(const v1::ExplainPlanResponse& in) {
  PlanExplanation out;
  out.profile = in.profile();
  out.model = in.model();
  out.n_layers = in.n_layers();
  out.beta_bytes = in.beta_bytes();
  out.chi_bytes = in.chi_bytes();
  out.query.sequences = in.query().sequences();
  out.query.context_tokens = in.query().context_tokens();
  out.query.shared_tokens = in.query().shared_tokens();
  out.query.device_memory_bytes = static_cast<double>(in.query().device_memory_bytes());
  out.query.host_pool_bytes = static_cast<double>(in.query().host_pool_bytes());
  out.query.scratch_bytes = static_cast<double>(in.query().scratch_bytes());
  out.query.stream_weights = in.query().stream_weights();
  out.weight_bytes = in.weight_bytes();
  out.cache_bytes = in.cache_bytes();
  out.residency_bytes = in.residency_bytes();
  for (const v1::PlanAlternative& alternative : in.alternatives()) {
    out.alternatives.push_back(AlternativeOf(alternative));
  }
  return out;
}

// Names are a file's or a daemon's: nothing of theirs moves the cursor or adds a line.
ExitCode Print(PlanExplanation explanation, bool json, Console& console) {
  if (explanation.alternatives.empty()) return Failed("the daemon's answer holds no plan", console);
  explanation.profile = EscapeToOneLine(explanation.profile);
  explanation.model = EscapeToOneLine(explanation.model);
  for (PlanAlternative& alternative : explanation.alternatives) {
    alternative.name = EscapeToOneLine(alternative.name);
    alternative.does_not_fit = EscapeToOneLine(alternative.does_not_fit);
  }
  console.out << (json ? ExplanationToJson(explanation) + "\n" : FormatExplanation(explanation));
  return kExitOk;
}

ExitCode PlanFromFile(const PlanFlags& plan, Console& console) {
  const absl::StatusOr<profiler::MachineProfile> profile = profiler::LoadProfile(plan.profile);
  if (!profile.ok()) return Failed(profile.status().message(), console);
  absl::StatusOr<PlanExplanation> explanation = scheduler::ExplainPlan(*profile, plan.query);
  if (!explanation.ok()) return Failed(explanation.status().message(), console);
  if (plan.kubernetes) {
    console.out << KubernetesPatch(*profile, *explanation, plan.query);
    return kExitOk;
  }
  return Print(*std::move(explanation), plan.json, console);
}

}  // namespace

ExitCode RunPlan(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  PlanFlags plan;
  FlagTable flags;
  AddPlanFlags(flags, &plan);
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("plan", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!parsed->positional.empty()) return UsageError("plan", "no arguments are expected", console);
  if (*plan.query.scratch_bytes < 0) plan.query.scratch_bytes.reset();  // not said
  // 0 on the wire means the default; here it was said.
  if (plan.query.sequences < 1) return UsageError("plan", "--sequences must be 1 or more", console);
  if (plan.query.context_tokens < 0) return UsageError("plan", "--context cannot be negative", console);
  if (plan.kubernetes && plan.profile.empty()) {
    return UsageError("plan", "--kubernetes needs --profile (a daemon's: spillway profile --json > FILE)",
                      console);
  }
  if (plan.kubernetes && plan.json)
    return UsageError("plan", "--json and --kubernetes exclude each other", console);
  if (!plan.profile.empty()) return PlanFromFile(plan, console);

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::ExplainPlanResponse response;
  const grpc::Status called =
      v1::AdminService::NewStub(*channel)->ExplainPlan(&call, RequestOf(plan.query), &response);
  if (!called.ok()) return CallFailed(called, context);
  return Print(ExplanationOf(response), plan.json, console);
}

}  // namespace spillway::client
