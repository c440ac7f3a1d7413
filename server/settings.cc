#include "server/settings.h"

#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace spillway::server {
namespace {

constexpr int64_t kTokensMax = int64_t{1} << 24;
constexpr int64_t kMsMax = int64_t{24} * 3600 * 1000;
constexpr absl::string_view kModel = "Model and device";
constexpr absl::string_view kMemory = "Memory and batching";
constexpr absl::string_view kPlanning = "Planning";
constexpr absl::string_view kRequests = "Requests";
constexpr absl::string_view kNetwork = "Network";
constexpr absl::string_view kSecurity = "Security";
constexpr absl::string_view kOperation = "Operation";
constexpr absl::string_view kProfile = "Profile";

using Text = std::string Settings::*;
using Number = int64_t Settings::*;
using Switch = bool Settings::*;

Flag TextFlag(absl::string_view group, absl::string_view name, Text target, absl::string_view help) {
  return {group, name, FlagType::kString, "", help, target};
}

Flag AddressFlag(absl::string_view group, absl::string_view name, absl::string_view fallback, Text target,
                 absl::string_view help) {
  return {group, name, FlagType::kAddress, fallback, help, target};
}

Flag ChoiceFlag(absl::string_view group, absl::string_view name, std::vector<absl::string_view> choices,
                absl::string_view fallback, Text target, absl::string_view help) {
  return {group, name, FlagType::kChoice, fallback, help, target, 0, 0, std::move(choices)};
}

Flag IntFlag(absl::string_view group, absl::string_view name, int64_t min, int64_t max,
             absl::string_view fallback, Number target, absl::string_view help) {
  return {group, name, FlagType::kInt, fallback, help, target, min, max};
}

Flag SwitchFlag(absl::string_view group, absl::string_view name, Switch target, absl::string_view help) {
  return {group, name, FlagType::kSwitch, "false", help, target};
}

Flag SizeFlag(absl::string_view group, absl::string_view name, int64_t min, absl::string_view fallback,
              Number target, absl::string_view help) {
  return {group, name, FlagType::kSize, fallback, help, target, min, int64_t{1} << 50};
}

Flag ModeFlag(absl::string_view name, Text target, absl::string_view help) {
  return {kPlanning, name, FlagType::kMode, "auto", help, target};
}

std::vector<Flag> MakeFlags() {
  using S = Settings;
  return {
      TextFlag(
          kModel, "model", &S::model,
          "What to serve: a GGUF file (Llama), or a Hugging Face directory with safetensors (Llama, OPT). "
          "Required, or --random_weights."),
      TextFlag(
          kModel, "random_weights", &S::random_weights,
          "Instead of --model: a Hugging Face config.json (Llama or OPT). Serves a model of that shape with "
          "random weights, for benchmarks; it takes and gives token ids only."),
      IntFlag(kModel, "random_seed", 0, std::numeric_limits<int64_t>::max(), "0", &S::random_seed,
              "Decides the weights of --random_weights."),
      TextFlag(
          kModel, "served_model_name", &S::served_model_name,
          "Names that requests may use, separated by commas: the first is the model's name in answers, the "
          "others are aliases. Empty: the name in the file, else the file's name."),
      TextFlag(kModel, "chat_template", &S::chat_template,
               "Jinja file in place of the model's own chat template, or none to serve without chat."),
      ChoiceFlag(kModel, "device", {"auto", "cpu", "cuda"}, "auto", &S::device,
                 "What computes. auto: the best device that this build can use, said in the log."),
      TextFlag(
          kModel, "cuda_module", &S::cuda_module,
          "The CUDA module to load. Empty: libspillway_cuda.so beside the program or in ../lib from there, "
          "else wherever the system's loader looks."),
      ChoiceFlag(
          kModel, "overlap_kernels", {"auto", "off"}, "auto", &S::overlap_kernels,
          "auto: on GPUs of compute capability 9.0 and later a kernel may be launched while the one before "
          "it "
          "still runs, and waits for it there (programmatic dependent launch), to shorten the gaps "
          "between them. off: it is launched when that one has ended, as on all others."),
      ChoiceFlag(
          kModel, "dtype", {"auto", "bf16", "f32"}, "auto", &S::dtype,
          "Precision of activations and of the cache. auto: bf16 where the device multiplies it, else f32."),
      ChoiceFlag(
          kModel, "weights", {"auto", "expanded", "packed"}, "auto", &S::weights,
          "expanded: decoded to --dtype at load. packed: kept as a GGUF file encodes them, in device memory "
          "and on the link, and decoded by each product; on a GPU alone. auto: on a GPU packed, but expanded "
          "those that it would decode anew for each product: all where --dtype is not bf16, rows that are "
          "no multiple of 256, and what is stacked of packed and plain tensors."),
      ChoiceFlag(kModel, "weights_on", {"auto", "device", "host"}, "auto", &S::weights_on,
                 "Where the layers' weights lie. device: all there. host: in host memory, streamed over the "
                 "link a layer at a time, for models larger than the device. auto: host where the device is "
                 "too small."),
      IntFlag(kModel, "threads", 0, 1024, "0", &S::threads,
              "CPU threads that compute. 0: the cores this process may use."),
      SizeFlag(
          kModel, "device_memory", 0, "0", &S::device_memory_bytes,
          "Device memory that may be used: weights, scratch, and cached tokens that stay there. 0: what the "
          "device has. Where device memory is host memory it bounds weights and scratch."),
      IntFlag(
          kModel, "emulated_link_mb_per_s", 0, 1'000'000, "0", &S::emulated_link_mb_per_s,
          "For development: puts the CPU behind an emulated link of this rate, with a device memory of its "
          "own (--device_memory). The cache then lies in the host pool and is carried over the link. Honest "
          "up to about 250. 0: no link."),
      IntFlag(kModel, "emulated_copy_overhead_us", 0, 1'000'000, "0", &S::emulated_copy_overhead_us,
              "Time that the emulated link takes for each copy besides its bytes."),

      IntFlag(
          kMemory, "context", 0, kTokensMax, "0", &S::context_tokens,
          "Prompt and generated tokens of one sequence at most. 0: what the model was made for. Clamped to "
          "what --host_pool holds."),
      SizeFlag(
          kMemory, "host_pool", 0, "0", &S::host_pool_bytes,
          "Memory for the KV cache. 0: most of what is free (all that is available less max(4 GiB, 10 %), "
          "and never more than --max_sequences of --context can fill); give a size to leave more to others."),
      IntFlag(
          kMemory, "numa_node", -1, 1023, "-1", &S::numa_node,
          "Node of the machine's memory that --host_pool, and weights that are streamed, come from first. "
          "-1: the one that the device is attached to, where the machine has several and says so "
          "(/sys/bus/pci/devices/*/numa_node); else wherever the kernel gives it. The log says which."),
      IntFlag(kMemory, "max_sequences", 1, 4096, "64", &S::max_sequences, "Sequences that run at once."),
      IntFlag(
          kMemory, "batch_sequences", 0, 4096, "0", &S::batch_sequences,
          "Of these in one decode batch: its rows take device memory. 0: all. With streamed weights up to 8 "
          "batches share their load by the column schedule (so at least an eighth of --max_sequences); else "
          "batches take turns."),
      IntFlag(kMemory, "max_queue", 1, 1'000'000, "512", &S::max_queue,
              "Requests that may wait; further ones are refused (QUEUE_FULL)."),
      IntFlag(
          kMemory, "max_gap_ms", 1, kMsMax, "100", &S::max_gap_ms,
          "Prefill of new prompts leaves running streams no longer than this without a token, where one pass "
          "allows it."),
      IntFlag(
          kMemory, "prefill_chunk_tokens", kPrefillChunkTokensMin, 8192, "0", &S::prefill_chunk_tokens,
          "Prompt tokens that one visit of a layer computes. Smaller: shorter gaps. Larger: faster prefill. "
          "0: 256; on a GPU with 10 GiB free 512, with 28 GiB 1024; behind a link a quarter of "
          "--prefill_rows "
          "at most, where those are given."),
      IntFlag(
          kMemory, "prefill_rows", kPrefillRowsMin, kTokensMax, "0", &S::prefill_rows,
          "Prompt tokens under way at once over all prompts; their hidden states, and on a device "
          "behind a link the blocks that they write, take memory. 0: four times --prefill_chunk_tokens, and "
          "1024 at least."),
      IntFlag(
          kMemory, "reserve_output_tokens", 1, kTokensMax, "64", &S::reserve_output_tokens,
          "A waiting request starts when its prompt and this many tokens of output fit the pool. Preemption "
          "backs what comes after."),
      ChoiceFlag(
          kMemory, "prefix_cache", {"on", "off"}, "on", &S::prefix_cache,
          "on: requests that begin alike share what was computed, within one cache_salt; cached_tokens and "
          "the time of the first token then tell a caller that a prefix was seen before. off: never "
          "between requests."),

      ModeFlag(
          "split", &S::split,
          "How cached tokens that are not on the device reach attention: auto (by the linear program), "
          "serial (the KVPR paper's form of it), transfer (as keys and values), rebuild (as X), or fixed:F "
          "(the fraction F of them as X). Others than auto are baselines to compare with, and refused "
          "where the model or the device cannot do them."),
      ModeFlag("residency", &S::residency,
               "Which cached tokens stay on the device: auto (as many, and in the form, as pays), off, or "
               "fixed:F (the fraction F of the cached tokens that requests read, as keys and values)."),
      ChoiceFlag(
          kPlanning, "schedule", {"auto", "row", "column"}, "auto", &S::schedule,
          "row: one batch through all layers, then the next. column: all batches, and a piece of a prompt, "
          "at each layer, so that they share a load of its weights. auto: column where weights are "
          "streamed (--weights_on) and more than one batch runs, or prompts are computed beside it."),
      IntFlag(
          kPlanning, "throughput_share_percent", 0, 99, "25", &S::throughput_share_percent,
          "With streamed weights requests that ask for latency run in row passes of their own between the "
          "others' visits; others keep at least this part of the time."),

      IntFlag(kRequests, "default_max_tokens", 0, kTokensMax, "1024", &S::default_max_tokens,
              "Tokens generated for a request without max_tokens, at most. 0: what the context leaves."),
      IntFlag(
          kRequests, "max_priority", 0, 100, "100", &S::max_priority,
          "Highest priority that a request may ask for; priorities are strict, so a higher one can starve "
          "all others. 0: clients can only stand back."),
      IntFlag(kRequests, "slow_reader_timeout_ms", 1, kMsMax, "30000", &S::slow_reader_timeout_ms,
              "A stream that is not read pauses its own sequence, and ends ABORTED after this time."),
      IntFlag(kRequests, "tokenizer_threads", 1, 256, "2", &S::tokenizer_threads,
              "Threads that tokenise long text."),

      AddressFlag(
          kNetwork, "listen", "127.0.0.1:8090", &S::listen,
          "Address of the gRPC services. Port 0 picks a free one. Beyond this machine give it TLS and tokens "
          "(Security, below), or a proxy that has them in front."),
      AddressFlag(
          kNetwork, "admin_listen", "", &S::admin_listen,
          "Address of AdminService, where it is to be apart from what clients can reach. Empty: the port "
          "of --listen. A port of its own is for operators: it takes 64 connections and messages of up to "
          "1 MiB, and --max_connections neither bounds nor counts them."),
      AddressFlag(kNetwork, "metrics_listen", "127.0.0.1:8091", &S::metrics_listen,
                  "Address of /metrics, /livez and /readyz: HTTP, without TLS or tokens. Port 0 picks a free "
                  "one."),
      TextFlag(kNetwork, "address_file", &S::address_file,
               "Written once the ports are bound: JSON with grpc, admin (the same unless --admin_listen is "
               "set), metrics and schema_version. Removed at the end."),
      IntFlag(kNetwork, "max_streams_per_connection", 1, 1'000'000, "1024", &S::max_streams_per_connection,
              "Concurrent calls of one connection."),
      IntFlag(kNetwork, "max_connection_age_ms", 0, kMsMax, "0", &S::max_connection_age_ms,
              "A connection is asked to go after this long, a tenth more or less: its calls finish, and its "
              "client "
              "connects anew, where a balancer of connections can place it on another daemon. 0: never."),
      ChoiceFlag(kNetwork, "reflection", {"on", "off"}, "on", &S::reflection,
                 "Serve gRPC reflection, from which grpcurl and others learn the interface."),
      IntFlag(kNetwork, "max_connections", 1, 1'000'000, "1024", &S::max_connections,
              "Connections to --listen at once, lowered to what the limit of open files leaves; one more is "
              "closed at once."),
      IntFlag(kNetwork, "receive_timeout_ms", 1, kMsMax, "60000", &S::receive_timeout_ms,
              "A call whose message has not come whole within this time ends CANCELLED."),
      SizeFlag(
          kNetwork, "network_memory", int64_t{64} << 20, "1GiB", &S::network_memory_bytes,
          "Memory for calls and their messages on the way in and out, all together. A last resort: beyond it "
          "gRPC reads more slowly and resets calls, whosever they are."),

      TextFlag(
          kSecurity, "tls_certificate", &S::tls_certificate,
          "PEM file: this daemon's certificate, then those that lead to its root. With --tls_key, the gRPC "
          "ports speak TLS (1.2 or 1.3) and nothing else. The files are looked at every second: new ones "
          "that are good serve new connections; others are refused, in the log and the metrics, and what "
          "was in effect stays."),
      TextFlag(kSecurity, "tls_key", &S::tls_key,
               "PEM file: the certificate's private key, without a password."),
      TextFlag(kSecurity, "tls_client_ca", &S::tls_client_ca,
               "PEM file of authorities: a client must present a certificate that one of them signed (mutual "
               "TLS). Looked at like the certificate. Empty: clients need none."),
      TextFlag(
          kSecurity, "tokens_file", &S::tokens_file,
          "JSON file of tokens (`spillway token` makes them): calls must show one, but for health checks, "
          "and "
          "AdminService wants one of role admin. Each names a tenant, whose requests at once and tokens per "
          "minute may be limited. Looked at every second, like the certificate. Empty: nobody is asked."),

      IntFlag(
          kOperation, "stall_timeout_ms", 100, kMsMax, "120000", &S::stall_timeout_ms,
          "Work exists and no visit finished for this long: /livez fails, the state goes to the log and the "
          "daemon exits 1."),
      IntFlag(
          kOperation, "lame_duck_ms", 0, kMsMax, "3000", &S::lame_duck_ms,
          "After SIGTERM, say NOT_SERVING but go on accepting calls for this long, so that load balancers "
          "notice: longer than the period of their checks. 0 where nothing balances. A second signal exits "
          "at "
          "once."),
      IntFlag(kOperation, "drain_timeout_ms", 0, kMsMax, "20000", &S::drain_timeout_ms,
              "After SIGTERM, running streams may finish for this long."),
      ChoiceFlag(kOperation, "log_format", {"text", "json"}, "text", &S::log_format,
                 "Form of the log on stderr: text, or one JSON object a line."),
      ChoiceFlag(kOperation, "log_level", {"debug", "info", "warning", "error"}, "info", &S::log_level,
                 "What to log at least."),

      SwitchFlag(
          kOperation, "check_blocks", &S::check_blocks,
          "For debugging, behind a link: every stored block has checksums, verified whenever it was carried. "
          "A difference is logged with block, layer and plane, and the engine fails. Steps take several "
          "times as long."),

      TextFlag(
          kProfile, "profile", &S::profile,
          "The measured rates of this machine for this model, which plans are made from. Read where the file "
          "is there, and refused, before the weights are loaded where the model's header tells, if it is "
          "another machine's or model's; else measured and written. Empty: a file of its own in --cache_dir "
          "for each machine and model."),
      TextFlag(kProfile, "cache_dir", &S::cache_dir,
               "Folder of what may be lost. Empty: $XDG_CACHE_HOME/spillway, else ~/.cache/spillway."),
      SwitchFlag(
          kProfile, "reprofile", &S::reprofile,
          "Measure although there is a saved profile, and replace it. Behind a link a missing profile is "
          "always measured, in about 10 s, or longer where other work keeps the machine busy; a device in "
          "host memory is measured only when --profile or this asks for it."),
      SwitchFlag(kProfile, "profile_only", &S::profile_only,
                 "Load the model, measure or read the profile, print it and exit. Nothing is served."),
  };
}

// `text` in lines of at most `width` columns, each begun with `indent` spaces.
std::string Wrap(absl::string_view text, size_t width, size_t indent) {
  std::string out;
  std::string line(indent, ' ');
  for (absl::string_view word : absl::StrSplit(text, ' ')) {
    if (line.size() > indent && line.size() + 1 + word.size() > width) {
      absl::StrAppend(&out, line, "\n");
      line.assign(indent, ' ');
    }
    absl::StrAppend(&line, line.size() > indent ? " " : "", word);
  }
  return absl::StrCat(out, line, "\n");
}

constexpr absl::string_view kIntroduction =
    "spillwayd serves a language model over gRPC.\n"
    "\n"
    "  spillwayd --model=llama.gguf\n"
    "  spillwayd --model=llama.gguf --host_pool=24GiB --listen=0.0.0.0:8090\n"
    "\n"
    "A value is taken from the flag, else from the environment, else from the JSON file of --config, else "
    "it\n"
    "is the default. --print_config shows every value and where it came from.\n";

constexpr absl::string_view kActions =
    "\nOther\n"
    "  --config=FILE\n"
    "      JSON object of flag names and values, e.g. {\"schema_version\": 1, \"model\": \"m.gguf\", "
    "\"threads\": 8}.\n"
    "      (SPILLWAY_CONFIG)\n"
    "  --print_config\n"
    "      Print the values in effect and where each came from, and exit.\n"
    "  --healthcheck\n"
    "      Ask the daemon of this --metrics_listen whether it serves: exit 0 if so, else 1 and a line.\n"
    "  --version\n"
    "  -h, --help\n"
    "\n"
    "Signals: SIGTERM and SIGINT finish running streams and exit 0; a second one exits at once. SIGHUP does "
    "nothing: files are looked at by themselves.\n"
    "Exit code 1: it could not start (one line says why) or the device failed.\n";

}  // namespace

absl::Span<const Flag> Flags() {
  static const std::vector<Flag>& flags = *new std::vector<Flag>(MakeFlags());
  return flags;
}

std::string ValueHint(const Flag& flag) {
  switch (flag.type) {
    case FlagType::kString:
      return flag.name == "served_model_name" ? "NAMES" : flag.name == "cache_dir" ? "DIR" : "FILE";
    case FlagType::kInt:
      return "N";
    case FlagType::kSize:
      return "SIZE";
    case FlagType::kAddress:
      return "HOST:PORT";
    case FlagType::kMode:
      return "MODE";
    case FlagType::kChoice:
      return absl::StrJoin(flag.choices, "|");
    case FlagType::kSwitch:
      return "true|false";
  }
  return "";
}

std::string EnvironmentName(const Flag& flag) {
  return absl::StrCat("SPILLWAY_", absl::AsciiStrToUpper(flag.name));
}

std::string HelpText() {
  std::string out(kIntroduction);
  absl::string_view group;
  for (const Flag& flag : Flags()) {
    if (flag.group != group) absl::StrAppend(&out, "\n", flag.group, "\n");
    group = flag.group;
    absl::StrAppend(&out, "  --", flag.name, "=", ValueHint(flag));
    if (!flag.fallback.empty()) absl::StrAppend(&out, "  (", flag.fallback, ")");
    absl::StrAppend(&out, "\n", Wrap(flag.help, 100, 6));
  }
  return absl::StrCat(out, kActions);
}

std::string ConfigurationDoc() {
  std::string out =
      "<!-- Generated by `spillway-docs configuration` from server/settings.cc; a test compares. -->\n"
      "# Configuration of spillwayd\n\n"
      "A value is taken from the flag, else from the environment variable, else from the JSON file of "
      "`--config`\n"
      "(`SPILLWAY_CONFIG`), else it is the default. Unknown names are refused, with the nearest known one. "
      "Sizes are written\n"
      "`24GiB`, `512MiB`, `1.5GB` or in bytes. `spillwayd --print_config` shows every value and where it "
      "came from.\n\n"
      "```json\n{\"schema_version\": 1, \"model\": \"/models/llama.gguf\", \"host_pool\": \"24GiB\", "
      "\"max_sequences\": 128}\n```\n\n"
      "Kubernetes puts variables such as `SPILLWAY_SERVICE_HOST` and `SPILLWAY_PORT` into pods beside a "
      "service of that name;\n"
      "these, and what the client and the scripts read (`SPILLWAY_SERVER`, `SPILLWAY_TOKEN`, "
      "`SPILLWAY_CACHE`, ...), are passed "
      "over. Any other unknown `SPILLWAY_*` variable "
      "is an error.\n";
  absl::string_view group;
  for (const Flag& flag : Flags()) {
    if (flag.group != group) {
      absl::StrAppend(&out, "\n## ", flag.group,
                      "\n\n| flag | default | environment | |\n|---|---|---|---|\n");
    }
    group = flag.group;
    const std::string hint = absl::StrReplaceAll(ValueHint(flag), {{"|", "\\|"}});
    absl::StrAppend(&out, "| `--", flag.name, "=", hint, "` | ",
                    flag.fallback.empty() ? "" : absl::StrCat("`", flag.fallback, "`"), " | `",
                    EnvironmentName(flag), "` | ", flag.help, " |\n");
  }
  return out;
}

}  // namespace spillway::server
