// Identity of a model by its bytes.
#ifndef SPILLWAY_ENGINE_MODEL_FINGERPRINT_H_
#define SPILLWAY_ENGINE_MODEL_FINGERPRINT_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/model/gguf.h"

namespace spillway::model {

using ModelFingerprint = std::array<uint8_t, 32>;

// SHA-256 over the whole file, metadata and weights: two files with one differing bit differ, and the name or
// place of a file does not matter. To use several threads it is a tree: the digest of the digests of
// consecutive 16 MiB pieces, after a label and the size; `n_threads` does not change it.
//
// Reads every byte once (which brings the file into the page cache for the load that follows) and hashes 1 to
// 2 GB/s a thread where the processor has SHA instructions, about 0.4 without. Fails if the file changed
// since it was opened. REQUIRES: n_threads >= 1.
absl::StatusOr<ModelFingerprint> Fingerprint(const GgufFile& file, int n_threads);

// The same of bytes that the caller checks for changes.
absl::StatusOr<ModelFingerprint> FingerprintOfBytes(absl::Span<const uint8_t> bytes, int n_threads);

// SHA-256 of a text that describes a model which no file holds.
absl::StatusOr<ModelFingerprint> FingerprintOfText(absl::string_view description);

// 64 lowercase hexadecimal digits.
std::string ToHex(const ModelFingerprint& fingerprint);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_FINGERPRINT_H_
