// Everything that can be set on spillwayd: one table of flags, from which parsing, --help, --print_config and
// docs/configuration.md are made, and the values as the rest of the server reads them.
#ifndef SPILLWAY_SERVER_SETTINGS_H_
#define SPILLWAY_SERVER_SETTINGS_H_

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spillway::server {

constexpr int64_t kPrefillRowsMin = 16;
constexpr int64_t kPrefillChunkTokensMin = 16;

// Values in effect. Units are in the names; docs/configuration.md explains each.
struct Settings {
  std::string model;           // or
  std::string random_weights;  // one of the two is set
  int64_t random_seed = 0;
  std::string served_model_name;
  std::string chat_template;
  std::string device;
  std::string cuda_module;
  std::string overlap_kernels;
  std::string dtype;
  std::string weights;
  std::string weights_on;
  int64_t threads = 0;
  int64_t device_memory_bytes = 0;
  int64_t emulated_link_mb_per_s = 0;
  int64_t emulated_copy_overhead_us = 0;

  int64_t context_tokens = 0;
  int64_t host_pool_bytes = 0;
  int64_t max_sequences = 0;
  int64_t batch_sequences = 0;
  int64_t max_queue = 0;
  int64_t max_gap_ms = 0;
  int64_t prefill_chunk_tokens = 0;
  int64_t prefill_rows = 0;
  int64_t reserve_output_tokens = 0;
  std::string prefix_cache;

  std::string split;
  std::string residency;
  std::string schedule;
  int64_t throughput_share_percent = 0;

  int64_t default_max_tokens = 0;
  int64_t max_priority = 0;
  int64_t slow_reader_timeout_ms = 0;
  int64_t tokenizer_threads = 0;

  std::string listen;
  std::string admin_listen;
  std::string metrics_listen;
  std::string address_file;
  int64_t max_streams_per_connection = 0;
  int64_t max_connection_age_ms = 0;
  std::string reflection;
  int64_t max_connections = 0;
  int64_t network_memory_bytes = 0;
  int64_t receive_timeout_ms = 0;

  std::string tls_certificate;
  std::string tls_key;
  std::string tls_client_ca;
  std::string tokens_file;

  int64_t stall_timeout_ms = 0;
  int64_t lame_duck_ms = 0;
  int64_t drain_timeout_ms = 0;
  std::string log_format;
  std::string log_level;
  bool check_blocks = false;
  int64_t numa_node = -1;

  std::string profile;
  std::string cache_dir;
  bool reprofile = false;
  bool profile_only = false;

  // What is served, for messages and names.
  const std::string& model_path() const { return model.empty() ? random_weights : model; }
};

enum class FlagType : uint8_t {
  kString,
  kInt,
  kSize,     // "24GiB"
  kAddress,  // "host:port", "[::1]:port"
  kMode,     // "auto", "fixed:0.5"; what else is up to who uses it
  kChoice,
  kSwitch,  // "--name" is "--name=true"
};

struct Flag {
  using Target = std::variant<std::string Settings::*, int64_t Settings::*, bool Settings::*>;

  absl::string_view group;
  absl::string_view name;
  FlagType type;
  absl::string_view fallback;  // the default, as one would write it
  absl::string_view help;
  Target target;
  int64_t min = 0;  // kInt, kSize
  int64_t max = std::numeric_limits<int64_t>::max();
  std::vector<absl::string_view> choices = {};  // kChoice
};

// In the order of --help; flags of one group are neighbours.
absl::Span<const Flag> Flags();

// "--name=" and this in help and documents: "SIZE", "HOST:PORT", "auto|cpu|cuda".
std::string ValueHint(const Flag& flag);
// SPILLWAY_ and the name in capitals.
std::string EnvironmentName(const Flag& flag);

// docs/configuration.md.
std::string ConfigurationDoc();
// What --help prints.
std::string HelpText();

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SETTINGS_H_
