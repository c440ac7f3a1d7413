#!/bin/bash
# Runs what needs a GPU from an unpacked bundle (scripts/gpu-bundle.sh) and leaves a report. Never run on a GPU
# so far.
#
# Usage: scripts/gpu-check.sh [--out=FOLDER] [--model=FILE]
#
# Under eight minutes, in this order, each step bounded in time and told apart in the report: what the machine
# gives (gpu_spike), every test of the device and of the executors, compute-sanitizer on short ones, the daemon's
# profile. A step that fails does not keep the others from running; the exit code is theirs.
#
#   --out=FOLDER   where reports go (default: gpu-report): report.txt, results.json, a log for each step
#   --model=FILE   a GGUF model for the profile (default: a tiny one with random weights)
#   -h, --help     this text
set -uo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$SPILLWAY_ROOT" || die "no folder $SPILLWAY_ROOT"

out=gpu-report model=''
while (($# > 0)); do
  case $1 in
    --out=*) out=${1#--out=} ;;
    --model=*) model=${1#--model=} ;;
    -h | --help) print_help; exit 0 ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done
mkdir -p "$out"
bin=bin
[[ -d $bin ]] || bin=build/release/bin
cuda_lib=$(ldconfig -p 2>/dev/null | awk '/libcublasLt.so.13 / { print $NF; exit }')
for folder in "$(dirname "${cuda_lib:-/none/x}")" /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib; do
  [[ -e $folder/libcublasLt.so.13 ]] && LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
done
export LD_LIBRARY_PATH="$SPILLWAY_ROOT/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export TEST_TMPDIR="$out/tmp"
mkdir -p "$TEST_TMPDIR"
if [[ -z $model ]]; then
  model=$out/tiny.gguf
  "$bin/write-tiny-llama" "$model" > /dev/null || die "write-tiny-llama failed"
fi

failed=0
: > "$out/report.txt"
: > "$out/steps.jsonl"
# run NAME SECONDS COMMAND...: one step, its output in NAME.log.
run() {
  local name=$1 limit_s=$2 begin rc took_s
  shift 2
  step "$name (at most $limit_s s)"
  begin=$(date +%s)
  timeout "$limit_s" "$@" > "$out/$name.log" 2>&1
  rc=$?
  took_s=$(($(date +%s) - begin))
  ((rc == 0)) || failed=1
  printf '%-24s rc %3d  %4d s  %s\n' "$name" "$rc" "$took_s" "$*" | tee -a "$out/report.txt" >&2
  printf '{"step":"%s","rc":%d,"took_s":%d}\n' "$name" "$rc" "$took_s" >> "$out/steps.jsonl"
}

run machine 20 nvidia-smi -q
[[ -x $bin/gpu_spike ]] && run gpu_spike 200 "$bin/gpu_spike"
run device_tests 120 "$bin/device_gpu_test" --gtest_brief=1
run executor_tests 90 "$bin/exec_gpu_test" --gtest_brief=1
[[ -x $bin/device_code_gpu_test ]] && run device_code_tests 30 "$bin/device_code_gpu_test" --gtest_brief=1
sanitizer=$(command -v compute-sanitizer || true)
[[ -n $sanitizer ]] || sanitizer=/usr/local/cuda/bin/compute-sanitizer
if [[ -x $sanitizer ]]; then
  short='*Norm*/bf16:*Rope*/bf16:*RowsWithoutKeys*/bf16:*Ragged*/bf16:*Greedy*/bf16:*Logprob*/bf16:*Packed*/bf16'
  run memcheck 60 "$sanitizer" --tool memcheck --error-exitcode 9 "$bin/device_gpu_test" --gtest_brief=1 --gtest_filter="$short"
  run racecheck 60 "$sanitizer" --tool racecheck --error-exitcode 9 "$bin/device_gpu_test" --gtest_brief=1 --gtest_filter="$short"
fi
run profile 60 "$bin/spillwayd" --model="$model" --device=cuda --profile_only --profile="$out/profile.json"

{
  printf '{"schema_version":1,"date":"%s","commit":"%s","steps":[' "$(date -u +%FT%TZ)" "$(cat COMMIT 2> /dev/null)"
  paste -sd, "$out/steps.jsonl"
  printf ']}\n'
} > "$out/results.json"
rm -rf "$TEST_TMPDIR"
say "report: $out/report.txt, $out/results.json"
exit "$failed"
