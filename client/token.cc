// `spillway token`: makes a token, and puts what the daemon needs to know of it into its tokens file.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/json_watch.h"
#include "base/sha256.h"
#include "base/small_file.h"
#include "base/status_macros.h"
#include "client/commands.h"
#include "nlohmann/json.hpp"

namespace spillway::client {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::string_view kUsage =
    "spillway token: make a token for a tenant.\n\n"
    "usage: spillway token --tenant=NAME [--tokens_file=FILE] [flags]\n\n"
    "Prints the token, once: the file keeps its SHA-256 alone. The daemon that runs with this --tokens_file "
    "takes\n"
    "it within a second or two. To take a token back, delete its line.\n\n"
    "Examples:\n"
    "  spillway token --tenant=acme --tokens_file=tokens.json > acme.token\n"
    "  spillway token --tenant=acme --max_concurrent_requests=8 --tokens_per_minute=60000 "
    "--tokens_file=tokens.json\n"
    "  spillway token --tenant=operations --role=admin --tokens_file=tokens.json\n"
    "  spillway --token_file=acme.token complete \"The capital of France is\"\n\n";

// The daemon refuses files with larger ones.
constexpr int64_t kMostLimit = int64_t{1} << 50;

struct TokenOptions {
  std::string tenant;
  bool admin = false;
  std::string tokens_file;
  std::optional<int64_t> max_concurrent_requests;
  std::optional<int64_t> tokens_per_minute;
};

// 256 random bits, in characters that need no quoting, behind a prefix that tells scanners for secrets what
// it is.
absl::StatusOr<std::string> MakeToken() {
  std::array<char, 32> random{};
  if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size())) {
    return absl::UnavailableError(absl::StrCat("the kernel gives no random bytes: ", std::strerror(errno)));
  }
  return absl::StrCat("spw_", absl::WebSafeBase64Escape(absl::string_view(random.data(), random.size())));
}

absl::StatusOr<Json> ReadTokens(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) {
    Json empty;
    empty["schema_version"] = 1;
    return empty;
  }
  SPILLWAY_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  JsonWatch watch;
  Json json = Json::parse(text, std::ref(watch), /*allow_exceptions=*/false);
  if (const std::string problem = watch.problem(); !problem.empty())
    return absl::InvalidArgumentError(problem);
  if (!json.is_object() || json.value("schema_version", Json()) != 1) {
    return absl::InvalidArgumentError("is not a tokens file: JSON with \"schema_version\": 1");
  }
  for (const auto& [name, kind] :
       {std::pair("tokens", Json::value_t::array), std::pair("tenants", Json::value_t::object)}) {
    if (json.contains(name) && json[name].type() != kind) {
      return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" in it has the wrong form"));
    }
  }
  return json;
}

void AddTo(Json& tokens, const Json& entry, const TokenOptions& options) {
  tokens["tokens"].push_back(entry);
  const auto limit = [&](const char* name, const std::optional<int64_t>& value) {
    if (value.has_value()) tokens["tenants"][options.tenant][name] = *value;
  };
  limit("max_concurrent_requests", options.max_concurrent_requests);
  limit("tokens_per_minute", options.tokens_per_minute);
}

absl::Status SystemError(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

// Whole or not at all: the daemon may look at any time. Mode and owner of a file that is there stay, or the
// daemon could not read its own file.
absl::Status Replace(const std::string& path, const std::string& text) {
  struct stat about {};
  const bool is_there = stat(path.c_str(), &about) == 0;
  const mode_t mode = is_there ? about.st_mode & 0777 : 0600;
  std::string next = path + ".XXXXXX";
  const int file = mkostemp(next.data(), O_CLOEXEC);
  if (file < 0) return SystemError("cannot be written");
  absl::Status status;
  if (is_there && fchown(file, about.st_uid, about.st_gid) != 0) {
    status = SystemError("its owner would change; add the token as that user, or as root");
  } else if (write(file, text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
             fchmod(file, mode) != 0 || fsync(file) != 0) {
    status = SystemError("cannot be written");
  }
  if (close(file) != 0 && status.ok()) status = SystemError("cannot be written");
  if (status.ok() && rename(next.c_str(), path.c_str()) != 0) status = SystemError("cannot be replaced");
  if (!status.ok()) unlink(next.c_str());
  return status;
}

// One command after the other: each reads what the one before has written. A link to the file stays one.
absl::Status AddToFile(const std::string& path, const Json& entry, const TokenOptions& options) {
  std::error_code unresolved;
  const std::filesystem::path resolved =
      std::filesystem::weakly_canonical(std::filesystem::absolute(path), unresolved);
  if (unresolved) return absl::UnavailableError(unresolved.message());
  const int folder = open(resolved.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return SystemError("its folder cannot be opened");
  absl::Status status;
  if (flock(folder, LOCK_EX) != 0) {
    status = SystemError("its folder cannot be locked");
  } else if (absl::StatusOr<Json> tokens = ReadTokens(resolved); tokens.ok()) {
    AddTo(*tokens, entry, options);
    status = Replace(resolved, tokens->dump(2) + "\n");
  } else {
    status = tokens.status();
  }
  close(folder);
  return status;
}

}  // namespace

ExitCode RunToken(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  TokenOptions options;
  FlagTable flags;
  flags.Section("Flags");
  flags.Add("tenant", &options.tenant, "NAME",
            "Whose token it is: 1 to 64 letters, digits, dots, dashes and underscores. Required.");
  flags.AddChoice("role", {"user", "admin"}, "admin: may call AdminService too. Default: user.",
                  [&options](int role) { options.admin = role == 1; });
  flags.Add("tokens_file", &options.tokens_file, "FILE",
            "The daemon's --tokens_file, to which the token is added; made where it is not there. Empty: the "
            "line to add is printed on standard error.");
  flags.Add("max_concurrent_requests", &options.max_concurrent_requests, "N",
            "Sets the tenant's limit, whichever of its tokens they come with. 0: none.");
  flags.Add("tokens_per_minute", &options.tokens_per_minute, "N",
            "Sets the tenant's limit, of prompts and answers together. 0: none.");
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("token", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!parsed->positional.empty()) return UsageError("token", "no arguments are expected", console);
  if (options.tenant.empty()) return UsageError("token", "--tenant=NAME is needed", console);
  const bool fit = options.tenant.size() <= 64 && options.tenant.find_first_not_of(
                                                      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                      "0123456789.-_") == std::string::npos;
  if (!fit) {
    return UsageError("token", "--tenant must be 1 to 64 letters, digits, dots, dashes and underscores",
                      console);
  }
  for (const std::optional<int64_t>& limit : {options.max_concurrent_requests, options.tokens_per_minute}) {
    if (limit.value_or(0) < 0 || limit.value_or(0) > kMostLimit) {
      return UsageError("token", absl::StrCat("a limit must lie in 0..", kMostLimit), console);
    }
  }

  const absl::StatusOr<std::string> token = MakeToken();
  if (!token.ok()) return Failed(token.status().message(), console);
  const Sha256Digest digest = Sha256(*token);
  Json entry = {{"sha256", absl::BytesToHexString(absl::string_view(
                               reinterpret_cast<const char*>(digest.data()), digest.size()))},
                {"tenant", options.tenant}};
  if (options.admin) entry["role"] = "admin";
  if (options.tokens_file.empty()) {
    Json tokens;
    tokens["schema_version"] = 1;
    AddTo(tokens, entry, options);
    console.out << *token << "\n";
    console.err << "spillway: for the daemon's --tokens_file: " << tokens.dump() << "\n";
    return kExitOk;
  }
  if (const absl::Status added = AddToFile(options.tokens_file, entry, options); !added.ok()) {
    return Failed(absl::StrCat("--tokens_file=", options.tokens_file, ": ", added.message()), console);
  }
  console.out << *token << "\n";
  console.err << "spillway: added to " << options.tokens_file << "\n";
  return kExitOk;
}

}  // namespace spillway::client
