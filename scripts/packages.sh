#!/bin/bash
# The one list of the Debian packages that Spillway needs, and the way to install them.
#
# Usage: scripts/packages.sh list SET...       print the packages of these sets, one a line
#        scripts/packages.sh missing SET...    print those that are not installed
#        scripts/packages.sh install SET...    install those that are not installed (root or sudo)
#
# Sets:  build   to build and run spillwayd and spillway (what quickstart.sh installs)
#        test    to build and run the tests, linters and sanitizers, besides `build`
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build_packages=(
  # tools
  g++ cmake ninja-build ccache pkg-config
  ca-certificates python3-venv              # fetch-demo-model.sh: pip and the wheel's zip archive
  # base and the command line
  libabsl-dev nlohmann-json3-dev libssl-dev zlib1g-dev
  # engine
  libdnnl-dev libpcre2-dev
  # scheduler
  libglpk-dev
  # server, client
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  prometheus-cpp-dev libcivetweb-dev
)
test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev
  clang-14 libclang-rt-14-dev               # fuzz targets
  clang-format-14 clang-tidy-14 shellcheck  # lint.sh
  git jq curl
)

packages_of() {
  local set
  for set in "$@"; do
    case $set in
      build) printf '%s\n' "${build_packages[@]}" ;;
      test) printf '%s\n' "${test_packages[@]}" ;;
      *) usage_error "unknown package set '$set': build or test" ;;
    esac
  done
}

missing_of() {
  local package
  while read -r package; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s\n' "$package"
  done < <(packages_of "$@")
}

install_sets() {
  local missing
  mapfile -t missing < <(missing_of "$@")
  if ((${#missing[@]} == 0)); then
    say "Debian packages ($*): all installed"
    return
  fi
  say "installing: ${missing[*]}"
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  # Lists may be absent (a container) or stale (a package's version is gone from the mirror): refresh them.
  as_root "${apt[@]}" update >&2 ||
    die "apt-get update failed: a network, or a mirror in /etc/apt/sources.list, is needed to install packages"
  as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install: ${missing[*]}"
}

(($# >= 2)) || { print_help >&2; exit 2; }
command -v dpkg-query >/dev/null || die "dpkg is not here: only Debian and its descendants are supported"
verb=$1
shift
packages_of "$@" >/dev/null
case $verb in
  list) packages_of "$@" ;;
  missing) missing_of "$@" ;;
  install) install_sets "$@" ;;
  *) usage_error "unknown command '$verb': list, missing or install" ;;
esac
