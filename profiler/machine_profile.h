// MachineProfile: measured rates of one machine and one model, with units. Saved as JSON, so that a machine
// is measured once and a plan can be explained without it. A plain value.
#ifndef SPILLWAY_PROFILER_MACHINE_PROFILE_H_
#define SPILLWAY_PROFILER_MACHINE_PROFILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "profiler/cost_curve.h"

namespace spillway::profiler {

// 2: chunk_tokens; bytes_per_s of copies behind others; attention chunk by chunk. 3: context_length.
constexpr int kProfileSchemaVersion = 3;

// Where the numbers come from.
enum class ProfileSource : uint8_t {
  kMeasured,
  kMeasuredEmulatedLink,  // copies were paced by the emulator
  kPublicFigures,         // data sheets and published measurements: an example, not this machine
};

// What must be the same for a saved profile to be used again.
struct ProfileIdentity {
  std::string machine;        // hexadecimal digest of `machine_parts`
  std::string machine_parts;  // readable: processor, threads, memory, device, driver, link
  std::string model;          // hexadecimal digest of `model_parts`
  std::string model_parts;    // readable: family, shape, compute dtype, weight encodings
};

// The model's numbers that plans need, so that a profile alone explains them.
struct ProfiledModel {
  std::string name;
  int32_t n_layers = 0;
  int32_t d_model = 0;
  int32_t n_heads = 0;
  int32_t n_kv_heads = 0;
  int32_t d_head = 0;
  int32_t vocab_size = 0;
  int32_t element_bytes = 2;  // of K, V and X
  int32_t block_tokens = 16;
  double layer_weight_bytes = 0;  // encoded, one layer
  double weight_bytes = 0;        // all, embedding and head included
  int32_t chunk_tokens = 0;       // tokens that are rebuilt at once, when they have arrived together
  int32_t context_length = 0;     // positions that the model was made for; 0: not known

  double beta_bytes() const { return 2.0 * n_kv_heads * d_head * element_bytes; }
  double chi_bytes() const { return 1.0 * d_model * element_bytes; }
};

// Copies in one direction. Rates are of the whole copy, overhead included.
struct CopyRates {
  double bytes_per_s = 0;  // of batches of the size that executors use, one behind the other
  double overhead_s = 0;   // of one more copy
  CostCurve single;        // seconds against bytes: one copy at a time
  CostCurve merged;        // bytes a copy, many in flight
  CostCurve batched;       // bytes a run, runs of one batched call; empty where the device has none
};

struct MachineProfile {
  ProfileSource source = ProfileSource::kMeasured;
  std::string description;  // one line for people
  ProfileIdentity identity;
  ProfiledModel model;

  CopyRates copy_in;
  CopyRates copy_out;
  double copy_both_bytes_per_s = 0;  // in and out together
  CostCurve rebuild;                 // one layer's K and V from X: seconds against tokens
  CostCurve linear;                  // one layer's products, norms and activation: seconds against rows
  CostCurve head;                    // final norm, head, sampling: seconds against rows
  CostCurve attention;               // one layer's attention: seconds against reads (query row, cached token)
  CostCurve prefill_attention;       // the same for many rows of one sequence; empty: as `attention`
  // A layer's time with the link in busy over its time with the link at rest. The curves above are measured
  // with the link busy, as they are used: this says how much of them is the link's doing. 1: no link.
  double compute_slowdown_by_link = 1;
  double host_memory_bytes_per_s = 0;
  double host_attention_bytes_per_s = 0;  // 0: not measured, no host attention
  double host_attention_fixed_s = 0;      // a layer
  double device_memory_bytes = 0;
  double host_memory_bytes = 0;
  double measuring_s = 0;
};

// InvalidArgument names the first number that no machine could have: not finite, negative, out of physical
// range, or a curve that is not convex. A profile that passes can be planned with.
absl::Status ValidateProfile(const MachineProfile& profile);

// FailedPrecondition names the parts in which the saved profile's machine or model differs ("threads: 4, here
// 2") and what to do. Of an identity without the model's digest the parts that it says are compared.
absl::Status CheckProfileMatches(const MachineProfile& profile, const ProfileIdentity& identity);

std::string ProfileToJson(const MachineProfile& profile);
// Refuses other schema versions, missing or mistyped fields (named by their path), a field that is there
// twice, documents beyond JsonLimits, and what ValidateProfile refuses.
absl::StatusOr<MachineProfile> ProfileFromJson(absl::string_view json);

// Written whole or not at all (a temporary file beside it, renamed).
absl::Status SaveProfile(const MachineProfile& profile, const std::string& path);
// NotFound where the file cannot be read; InvalidArgument for what is no regular file, without waiting for
// it.
absl::StatusOr<MachineProfile> LoadProfile(const std::string& path);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_MACHINE_PROFILE_H_
