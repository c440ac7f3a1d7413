#!/bin/bash
# Checks how the code is written, without building it.
#
# Usage: scripts/lint.sh [--all] [--fix] [CHECK...]
#
# Checks: format   clang-format over all C++ sources
#         tidy     clang-tidy (.clang-tidy) over changed C++ sources outside of tests/; needs a built release preset
#         proto    buf: style of the .proto files, and that spillway.v1 only grows
#         shell    shellcheck over all scripts
# Without a CHECK: all of them.
#
#   --all            clang-tidy over every source, not only those changed since the base
#   --fix            let clang-format rewrite the files
#   --accept-proto   after the compatibility check, keep today's spillway.v1 as the one that must stay compatible
#   -h, --help       this text
#
# Environment: SPILLWAY_LINT_BASE   the commit that "changed" refers to (default: where this branch left
#                                   origin's default branch, or the commit before HEAD)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$SPILLWAY_ROOT"

all=0 fix=0 accept=0 checks=()
while (($# > 0)); do
  case $1 in
    --all) all=1 ;;
    --fix) fix=1 ;;
    --accept-proto) accept=1 ;;
    -h | --help) print_help; exit 0 ;;
    format | tidy | proto | shell) checks+=("$1") ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
  shift
done
((accept)) && checks=(proto)
((${#checks[@]} == 0)) && checks=(format tidy proto shell)

need() { command -v "$1" >/dev/null || die "$1 is not here: scripts/packages.sh install test"; }

# Names, one a line, of what git knows or would add and that still exists.
sources() { git ls-files -co --exclude-standard -- "$@" | while read -r file; do [[ -f $file ]] && printf '%s\n' "$file"; done; }

check_format() {
  need clang-format-14
  local files mode=(--dry-run -Werror)
  mapfile -t files < <(sources '*.h' '*.cc' '*.cu')
  ((fix)) && mode=(-i)
  clang-format-14 "${mode[@]}" "${files[@]}" || { say "scripts/lint.sh --fix format rewrites them"; return 1; }
  say "format: ${#files[@]} files"
}

lint_base() {
  local base=${SPILLWAY_LINT_BASE:-}
  if [[ -z $base ]] && base=$(git merge-base HEAD origin/HEAD 2>/dev/null) && [[ $base == "$(git rev-parse HEAD)" ]]; then
    base=
  fi
  git rev-parse --verify --quiet "${base:-HEAD~1}^{commit}"
}

# Changed sources, and the sources whose header of the same name changed.
changed_sources() {
  { git diff --name-only --diff-filter=d "$1" -- '*.h' '*.cc'; git ls-files -o --exclude-standard -- '*.h' '*.cc'; } |
    while read -r file; do
      [[ -f ${file%.*}.cc ]] && printf '%s\n' "${file%.*}.cc"
    done | sort -u
}

# What clang 14 can read of the release preset's commands: without gcc's precompiled headers, and without the CUDA
# device over the emulator, whose headers need std::source_location. Prints the folder.
tidy_database() {
  local folder=build/release/tidy
  mkdir -p "$folder"
  python3 - build/release/compile_commands.json >"$folder/compile_commands.json" <<'EOF'
import json, re, sys
commands = [entry for entry in json.load(open(sys.argv[1])) if "/tests/fakes/cuda/include" not in entry["command"]]
for entry in commands:
    entry["command"] = re.sub(r" -Winvalid-pch -include \S+cmake_pch\.hxx", "", entry["command"])
json.dump(commands, sys.stdout, indent=1)
EOF
  printf '%s' "$folder"
}

check_tidy() {
  need clang-tidy-14
  local folder database base files
  [[ -f build/release/compile_commands.json ]] || die "build/release/compile_commands.json is not here: cmake --preset release"
  folder=$(tidy_database)
  database=$folder/compile_commands.json
  if ((!all)) && base=$(lint_base); then
    mapfile -t files < <(changed_sources "$base")
  else
    mapfile -t files < <(sources '*.cc')
  fi
  # Only what the release preset compiles. Tests are left out: half of the time for little.
  local compiled=() file
  for file in "${files[@]}"; do
    if [[ $file != tests/* ]] && grep -qF "\"file\": \"$SPILLWAY_ROOT/$file\"" "$database"; then
      compiled+=("$file")
    fi
  done
  if ((${#compiled[@]} > 0)); then
    printf '%s\0' "${compiled[@]}" |
      xargs -0 -n 1 -P "$(build_jobs)" clang-tidy-14 -p "$folder" --quiet 2> >(grep -v 'warnings generated\.$' >&2) || return 1
  fi
  say "tidy: ${#compiled[@]} files"
}

check_proto() {
  local buf image=proto/spillway-v1.binpb now status=0
  buf="$(test_venv)/bin/buf"
  now=$(mktemp --suffix=.binpb)
  (cd proto && "$buf" lint && "$buf" build --exclude-source-info --path spillway -o "$now") || status=1
  if ((status == 0)) && [[ -f $image ]]; then
    (cd proto && "$buf" breaking --path spillway --against "../$image") || status=1
  fi
  if ((status == 0)) && ! cmp -s "$now" "$image"; then
    if ((accept)); then
      install -m 644 "$now" "$image"
    else
      say "spillway.v1 has grown beyond $image: commit what scripts/lint.sh --accept-proto makes of it"
      status=1
    fi
  fi
  rm -f "$now"
  ((status == 0)) && say "proto: spillway.v1 is well formed, and compatible with $image"
  return "$status"
}

check_shell() {
  need shellcheck
  local files
  mapfile -t files < <(sources 'scripts/*.sh' 'tests/**/*.sh' '.ci/run')
  shellcheck -x "${files[@]}" || return 1
  say "shell: ${#files[@]} files"
}

failed=()
for check in "${checks[@]}"; do
  "check_$check" || failed+=("$check")
done
((${#failed[@]} == 0)) || die "failed: ${failed[*]}"
