#include "server/token_file.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/small_file.h"
#include "base/status_macros.h"

namespace spillway::server {
namespace {

// 0 where they are equal; takes as long wherever they differ.
uint64_t Difference(const Sha256Digest& a, const Sha256Digest& b) {
  uint64_t difference = 0;
  for (size_t i = 0; i < a.size(); i += sizeof(uint64_t)) {
    uint64_t x = 0;
    uint64_t y = 0;
    std::memcpy(&x, a.data() + i, sizeof(x));
    std::memcpy(&y, b.data() + i, sizeof(y));
    difference |= x ^ y;
  }
  return difference;
}

// All ones where `value` is 0, else 0; without a branch.
uint64_t MaskOfZero(uint64_t value) { return ((value | (~value + 1)) >> 63) - 1; }

}  // namespace

absl::StatusOr<std::unique_ptr<TokenFile>> TokenFile::Load(const std::string& path) {
  auto out = std::unique_ptr<TokenFile>(new TokenFile(path));
  SPILLWAY_ASSIGN_OR_RETURN(out->text_, out->Read());
  SPILLWAY_ASSIGN_OR_RETURN(const TokenTable table, out->Check(out->text_));
  out->Take(table);
  if (table.tokens.empty()) {
    Log(LogLevel::kWarning, "there is no token in the tokens file: nobody can call", {{"tokens_file", path}});
  }
  return out;
}

absl::StatusOr<std::string> TokenFile::Read() const {
  absl::StatusOr<std::string> text = ReadSmallFile(path_);
  if (text.ok()) return text;
  return absl::InvalidArgumentError(absl::StrCat("--tokens_file=", path_, ": ", text.status().message()));
}

absl::StatusOr<TokenTable> TokenFile::Check(const std::string& text) const {
  absl::StatusOr<TokenTable> table = ParseTokenTable(text);
  if (table.ok()) return table;
  return absl::InvalidArgumentError(absl::StrCat("--tokens_file=", path_, ": ", table.status().message()));
}

void TokenFile::Take(const TokenTable& table) {
  const std::shared_ptr<const InEffect> before = current();
  auto next = std::make_shared<InEffect>();
  const MonotonicNs now_ns = Clock::Real().NowNs();
  for (const auto& [name, limits] : table.tenants) {
    std::shared_ptr<Tenant>& tenant = next->tenants[name];
    if (before != nullptr) {
      if (const auto found = before->tenants.find(name); found != before->tenants.end())
        tenant = found->second;
    }
    if (tenant == nullptr) tenant = std::make_shared<Tenant>(name, limits);
    tenant->SetLimits(limits, now_ns);
  }
  for (const TokenEntry& entry : table.tokens) {
    next->digests.push_back(entry.digest);
    next->holders.push_back({next->tenants.at(entry.tenant), entry.admin});
  }
  MutexLock lock(mutex_);
  current_ = std::move(next);
}

void TokenFile::Reload() {
  absl::StatusOr<std::string> text = Read();
  if (!text.ok()) return Refuse(text.status());
  if (*text == text_) return record_.OnSame();
  const absl::StatusOr<TokenTable> table = Check(*text);
  if (!table.ok()) return Refuse(table.status());
  Take(*table);
  text_ = *std::move(text);
  record_.OnTaken();
  Log(LogLevel::kInfo, "the tokens file changed",
      {{"tokens", static_cast<int64_t>(table->tokens.size())},
       {"tenants", static_cast<int64_t>(table->tenants.size())}});
}

void TokenFile::Refuse(const absl::Status& why) {
  if (!record_.OnBad(why.message())) return;
  Log(LogLevel::kError, "the tokens file changed and cannot be used: the tokens before stay in effect",
      {{"error", why.message()}});
}

TokenFile::Holder TokenFile::Find(absl::string_view token) const {
  const std::shared_ptr<const InEffect> now = current();
  const Sha256Digest shown = Sha256(token);
  uint64_t found = 0;  // 1 and the place; 0: none
  for (size_t i = 0; i < now->digests.size(); ++i) {
    found |= MaskOfZero(Difference(shown, now->digests[i])) & (i + 1);
  }
  return found == 0 ? Holder() : now->holders[found - 1];
}

void TokenFile::Pay(const std::string& tenant, int64_t generated_tokens, MonotonicNs now_ns) {
  const std::shared_ptr<const InEffect> now = current();
  const auto found = now->tenants.find(tenant);
  if (found != now->tenants.end()) found->second->Pay(generated_tokens, now_ns);
}

std::shared_ptr<const TokenFile::InEffect> TokenFile::current() const {
  MutexLock lock(mutex_);
  return current_;
}

}  // namespace spillway::server
