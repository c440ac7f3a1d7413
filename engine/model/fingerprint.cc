#include "engine/model/fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::model {
namespace {

constexpr size_t kPieceBytes = size_t{16} * kMiB;
constexpr absl::string_view kLabel = "spillway model fingerprint 1";

bool Sha256(absl::Span<const uint8_t> bytes, ModelFingerprint& digest) {
  unsigned int size = 0;
  return EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) == 1 &&
         size == digest.size();
}

absl::Status NoSha256() {
  return absl::InternalError("OpenSSL computes no SHA-256; check its configuration (OPENSSL_CONF)");
}

}  // namespace

absl::StatusOr<ModelFingerprint> Fingerprint(const GgufFile& file, int n_threads) {
  SPILLWAY_ASSIGN_OR_RETURN(const ModelFingerprint fingerprint, FingerprintOfBytes(file.bytes(), n_threads));
  SPILLWAY_RETURN_IF_ERROR(file.CheckUnchanged());
  return fingerprint;
}

absl::StatusOr<ModelFingerprint> FingerprintOfBytes(absl::Span<const uint8_t> bytes, int n_threads) {
  SPILLWAY_CHECK(n_threads >= 1);
  const size_t n_pieces = (bytes.size() + kPieceBytes - 1) / kPieceBytes;
  std::vector<ModelFingerprint> digests(n_pieces);
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  const auto hash_pieces = [&] {
    for (size_t i = next.fetch_add(1); i < n_pieces; i = next.fetch_add(1)) {
      if (!Sha256(bytes.subspan(i * kPieceBytes, kPieceBytes), digests[i])) failed = true;
    }
  };
  std::vector<std::thread> helpers;
  const size_t n_helpers = std::min(static_cast<size_t>(n_threads), std::max<size_t>(n_pieces, 1)) - 1;
  try {
    for (size_t i = 0; i < n_helpers; ++i) helpers.emplace_back(hash_pieces);
  } catch (const std::system_error&) {
    // A machine out of threads: those that there are do the work.
  }
  hash_pieces();
  for (std::thread& helper : helpers) helper.join();

  std::vector<uint8_t> root(kLabel.begin(), kLabel.end());
  for (int shift = 0; shift < 64; shift += 8) {
    root.push_back(static_cast<uint8_t>(static_cast<uint64_t>(bytes.size()) >> shift));
  }
  for (const ModelFingerprint& digest : digests) root.insert(root.end(), digest.begin(), digest.end());
  ModelFingerprint fingerprint;
  if (failed || !Sha256(root, fingerprint)) return NoSha256();
  return fingerprint;
}

absl::StatusOr<ModelFingerprint> FingerprintOfText(absl::string_view description) {
  ModelFingerprint fingerprint;
  const absl::Span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(description.data()),
                                        description.size());
  if (!Sha256(bytes, fingerprint)) return NoSha256();
  return fingerprint;
}

std::string ToHex(const ModelFingerprint& fingerprint) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(fingerprint.data()), fingerprint.size()));
}

}  // namespace spillway::model
