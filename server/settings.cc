#include "server/settings.h"

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
constexpr absl::string_view kRequests = "Requests";
constexpr absl::string_view kNetwork = "Network";
constexpr absl::string_view kOperation = "Operation";

std::vector<Flag> MakeFlags() {
  using S = Settings;
  using enum FlagType;
  return {
      {kModel, "model", kString, "", "The GGUF file to serve. Required.", &S::model},
      {kModel, "served_model_name", kString, "",
       "Names that requests may use, separated by commas: the first is the model's name in answers, the "
       "others "
       "are aliases. Empty: the name in the file, else the file's name.",
       &S::served_model_name},
      {kModel,
       "device",
       kChoice,
       "auto",
       "What computes. auto: the best device that this build can use, said in the log.",
       &S::device,
       0,
       0,
       {"auto", "cpu", "cuda"}},
      {kModel,
       "dtype",
       kChoice,
       "auto",
       "Precision of activations and of the cache. auto: bf16 where the device multiplies it, else f32.",
       &S::dtype,
       0,
       0,
       {"auto", "bf16", "f32"}},
      {kModel,
       "weights",
       kChoice,
       "expanded",
       "expanded: decoded to --dtype at load, fastest. packed: kept as the file encodes them (not served "
       "yet).",
       &S::weights,
       0,
       0,
       {"expanded", "packed"}},
      {kModel, "threads", kInt, "0", "CPU threads that compute. 0: the cores this process may use.",
       &S::threads, 0, 1024},

      {kMemory, "context", kInt, "0",
       "Prompt and generated tokens of one sequence at most. 0: what the model was made for. Clamped to what "
       "--host_pool holds.",
       &S::context_tokens, 0, kTokensMax},
      {kMemory, "host_pool", kSize, "0",
       "Memory for the KV cache. 0: what is available less max(4 GiB, 10 %), and never more than "
       "--max_sequences of --context can fill.",
       &S::host_pool_bytes, 0, int64_t{1} << 50},
      {kMemory, "max_sequences", kInt, "64", "Sequences that run at once.", &S::max_sequences, 1, 4096},
      {kMemory, "max_queue", kInt, "512", "Requests that may wait; further ones are refused (QUEUE_FULL).",
       &S::max_queue, 0, 1'000'000},
      {kMemory, "max_gap_ms", kInt, "100",
       "Prefill of new prompts leaves running streams no longer than this without a token, where one pass "
       "allows it.",
       &S::max_gap_ms, 1, kMsMax},
      {kMemory, "prefill_chunk_tokens", kInt, "256",
       "Prompt tokens that one visit of a layer computes. Smaller: shorter gaps. Larger: faster prefill.",
       &S::prefill_chunk_tokens, 16, 8192},
      {kMemory, "prefill_rows", kInt, "1024",
       "Prompt tokens under way at once over all prompts; their hidden states take memory.", &S::prefill_rows,
       16, kTokensMax},
      {kMemory, "reserve_output_tokens", kInt, "64",
       "A waiting request starts when its prompt and this many tokens of output fit the pool. Preemption "
       "backs "
       "what comes after.",
       &S::reserve_output_tokens, 1, kTokensMax},

      {kRequests, "default_max_tokens", kInt, "1024",
       "Tokens generated for a request without max_tokens, at most. 0: what the context leaves.",
       &S::default_max_tokens, 0, kTokensMax},
      {kRequests, "slow_reader_timeout_ms", kInt, "30000",
       "A stream that is not read pauses its own sequence, and ends ABORTED after this time.",
       &S::slow_reader_timeout_ms, 1, kMsMax},
      {kRequests, "tokenizer_threads", kInt, "2", "Threads that tokenise long text.", &S::tokenizer_threads,
       1, 256},

      {kNetwork, "listen", kAddress, "127.0.0.1:8090",
       "Address of the gRPC services. Port 0 picks a free one. There is no TLS and no authentication: keep "
       "it "
       "behind a proxy that has them.",
       &S::listen},
      {kNetwork, "metrics_listen", kAddress, "127.0.0.1:8091",
       "Address of /metrics, /livez and /readyz (HTTP). Port 0 picks a free one.", &S::metrics_listen},
      {kNetwork, "address_file", kString, "",
       "Written once both ports are bound: JSON with grpc, metrics and schema_version.", &S::address_file},
      {kNetwork, "max_streams_per_connection", kInt, "1024", "Concurrent calls of one connection.",
       &S::max_streams_per_connection, 1, 1'000'000},

      {kOperation, "stall_timeout_ms", kInt, "120000",
       "Work exists and no visit finished for this long: /livez fails, the state goes to the log and the "
       "daemon "
       "exits 1.",
       &S::stall_timeout_ms, 100, kMsMax},
      {kOperation, "lame_duck_ms", kInt, "0",
       "After SIGTERM, say NOT_SERVING but go on accepting calls for this long, so that load balancers "
       "notice.",
       &S::lame_duck_ms, 0, kMsMax},
      {kOperation, "drain_timeout_ms", kInt, "30000",
       "After SIGTERM, running streams may finish for this long.", &S::drain_timeout_ms, 0, kMsMax},
      {kOperation,
       "log_format",
       kChoice,
       "text",
       "Form of the log on stderr: text, or one JSON object a line.",
       &S::log_format,
       0,
       0,
       {"text", "json"}},
      {kOperation,
       "log_level",
       kChoice,
       "info",
       "What to log at least.",
       &S::log_level,
       0,
       0,
       {"debug", "info", "warning", "error"}},
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
    "  --version\n"
    "  --help\n"
    "\n"
    "Signals: SIGTERM and SIGINT finish running streams and exit 0; a second one exits at once.\n"
    "Exit code 1: it could not start (one line says why) or the device failed.\n";

}  // namespace

absl::Span<const Flag> Flags() {
  static const std::vector<Flag>& flags = *new std::vector<Flag>(MakeFlags());
  return flags;
}

std::string ValueHint(const Flag& flag) {
  switch (flag.type) {
    case FlagType::kString:
      return flag.name == "model" || flag.name == "address_file" ? "FILE" : "TEXT";
    case FlagType::kInt:
      return "N";
    case FlagType::kSize:
      return "SIZE";
    case FlagType::kAddress:
      return "HOST:PORT";
    case FlagType::kChoice:
      return absl::StrJoin(flag.choices, "|");
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
      "these, and what the client and the scripts read (`SPILLWAY_SERVER`, `SPILLWAY_CACHE`), are passed "
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
