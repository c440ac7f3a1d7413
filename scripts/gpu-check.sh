#!/bin/bash
# Runs what needs a GPU from a bundle (scripts/gpu-bundle.sh) and leaves a report. Never run on a GPU so far.
#
# Usage: scripts/gpu-check.sh [--out=FOLDER] [--model=FILE] [--bundle=FILE]
#
# Under eight minutes, in this order, each step bounded in time and told apart in the report: every test of the
# device and of the executors, logits against Transformers on the same GPU (where python3 has torch and
# transformers), the short split benchmark, what of the GPU the engine gets beside what is asked of it
# (`spillway-bench gpu`, whose table ends the report), some of the split benchmark again with kernels that do not
# overlap, the daemon's profile, what the machine gives (gpu_spike), and compute-sanitizer on short tests. A step
# that fails does not keep the others from running; one for which no time is left is skipped, and the report says
# so. What falls short of what is asked is a number, not a failure.
#
#   --out=FOLDER   where reports go (default: gpu-report): report.txt, results.json, a log for each step
#   --model=FILE   a GGUF model for the profile (default: a tiny one with random weights)
#   --bundle=FILE  unpacks it and runs what is in it, also without --bundle where the programs are not beside this
#                  script (default: build/spillway-gpu.tar.xz)
#   -h, --help     this text
#
# Exit code: 0 all steps passed, 1 some failed, 3 there is no GPU that can be used (the report says why).
set -uo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
began=$PWD

out=gpu-report model='' bundle=''
while (($# > 0)); do
  case $1 in
    --out=*) out=${1#--out=} ;;
    --model=*) model=${1#--model=} ;;
    --bundle=*) bundle=${1#--bundle=} ;;
    -h | --help) print_help; exit 0 ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done
mkdir -p "$out" || die "no folder can be made at $out"
out=$(cd "$out" && pwd)
[[ -z $model || $model == /* ]] || model=$began/$model

# Unpacks a bundle into the reports' folder, and goes on there.
if [[ -z $bundle && ! -x $SPILLWAY_ROOT/bin/device_gpu_test && ! -x $SPILLWAY_ROOT/build/release/bin/device_gpu_test ]]; then
  bundle=$SPILLWAY_ROOT/build/spillway-gpu.tar.xz
fi
if [[ -n $bundle ]]; then
  [[ -f $bundle ]] || die "there is no bundle at $bundle: scripts/gpu-bundle.sh makes one"
  unpacked=$out/bundle
  rm -rf "$unpacked"
  mkdir "$unpacked" || die "no folder can be made at $unpacked"
  # Small machines have no xz; Python brings its own.
  tar -C "$unpacked" -xJf "$bundle" 2> /dev/null || python3 -m tarfile -e "$bundle" "$unpacked" ||
    die "$bundle cannot be unpacked: it is cut off, or neither xz nor python3 is here"
  bash "$unpacked/spillway-gpu/scripts/gpu-check.sh" --out="$out" ${model:+--model="$model"}
  rc=$?
  rm -rf "$unpacked"
  exit "$rc"
fi
cd "$SPILLWAY_ROOT" || die "no folder $SPILLWAY_ROOT"  # tests name their data from here
bin=bin
[[ -d $bin ]] || bin=build/release/bin
[[ -x $bin/device_gpu_test ]] || die "$bin/device_gpu_test is not there: unpack what scripts/gpu-bundle.sh made"

# The bundle's libraries and CUDA's, for the bundle's programs alone: Python and CUDA's tools bring their own.
libraries=$SPILLWAY_ROOT/lib
cuda_folders() {
  ldconfig -p 2> /dev/null | awk '/lib(cublasLt|cudart)\.so\.13 / { print $NF }' | xargs -r -n 1 dirname 2> /dev/null
  printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib
  python3 -c 'import glob, nvidia; [print(f) for p in nvidia.__path__ for f in glob.glob(p + "/*/lib")]' 2> /dev/null
}
for library in libcudart.so.13 libcublasLt.so.13; do
  while read -r folder; do
    [[ -e $folder/$library ]] || continue
    [[ :$libraries: == *:$folder:* ]] || libraries+=:$folder
    break
  done < <(cuda_folders)
done
ours=(env "LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "TEST_TMPDIR=$out/tmp")

failed=0
deadline=$((SECONDS + 465))
: > "$out/report.txt"
: > "$out/steps.jsonl"
rm -f "$out/split.json" "$out/split-in-turn.json" "$out/gpu.json" "$out/asked.txt" "$out/profile.json"  # another run's
mkdir -p "$out/tmp"
note() { printf '%s\n' "$*" | tee -a "$out/report.txt" >&2; }
# run NAME SECONDS COMMAND...: one step, its output in NAME.log.
run() {
  local name=$1 limit_s=$2 begin rc took_s
  shift 2
  ((deadline - SECONDS >= limit_s)) || limit_s=$((deadline - SECONDS))
  if ((limit_s < 3)); then
    note "$(printf '%-18s skipped: no time is left' "$name")"
    printf '{"step":"%s","rc":null,"skipped":"no time is left"}\n' "$name" >> "$out/steps.jsonl"
    return 1
  fi
  step "$name (at most $limit_s s)"
  begin=$SECONDS
  timeout -k 5 "$limit_s" "$@" > "$out/$name.log" 2>&1
  rc=$?
  took_s=$((SECONDS - begin))
  ((rc == 0)) || failed=1
  note "$(printf '%-18s rc %3d  %4d s  %s' "$name" "$rc" "$took_s" "$(grep -aE '^\[  (PASSED|FAILED)  \] [0-9]+' "$out/$name.log" | tr '\n' ' ')")"
  printf '{"step":"%s","rc":%d,"took_s":%d}\n' "$name" "$rc" "$took_s" >> "$out/steps.jsonl"
  return "$rc"
}
# finish CODE GPU
finish() {
  {
    printf '{"schema_version":1,"date":"%s","commit":"%s","gpu":%s,"steps":[' "$(date -u +%FT%TZ)" \
      "$(cat COMMIT 2> /dev/null)" "$2"
    paste -sd, "$out/steps.jsonl"
    printf '],"gpu_bench":'
    if [[ -s $out/gpu.json ]]; then cat "$out/gpu.json"; else printf 'null\n'; fi
    printf '}\n'
  } > "$out/results.json"
  if [[ -s $out/asked.txt ]]; then
    note ''
    tee -a "$out/report.txt" < "$out/asked.txt" >&2
  fi
  rm -rf "$out/tmp" "$out/mid-size"
  say "report: $out/report.txt, $out/results.json"
  exit "$1"
}

# The tests' main says which GPU there is, or why there is none.
gpu=$(timeout -k 5 60 "${ours[@]}" "$bin/device_gpu_test" --gtest_filter=-* 2>&1)
rc=$?
gpu=$(grep -aE '^(on |SKIPPED: )' <<< "$gpu" | head -n 1 || printf '%s' "$gpu" | tail -n 1)
if ((rc != 0)); then
  note "no GPU: ${gpu#SKIPPED: } (exit code $rc); nothing was run"
  finish 3 null
fi
note "$gpu, $(nproc) cores, $(date -u +%FT%TZ), commit $(cat COMMIT 2> /dev/null)"
command -v nvidia-smi > /dev/null && run machine 10 nvidia-smi -q

run device_tests 120 "${ours[@]}" "$bin/device_gpu_test"
run executor_tests 120 "${ours[@]}" "$bin/exec_gpu_test"
run device_code_tests 30 "${ours[@]}" "$bin/device_code_gpu_test"
if python3 -c 'import torch, transformers' 2> /dev/null; then
  run transformers 60 python3 scripts/gpu-logits.py "$out/mid-size" --device="${SPILLWAY_LOGITS_DEVICE:-cuda}" &&
    run logits 40 "${ours[@]}" "SPILLWAY_MID_SIZE_MODEL=$out/mid-size" "$bin/exec_gpu_test" --gtest_filter='MidSizeLogits.*'
else
  note "logits             skipped: python3 has no torch and transformers"
fi
run split 60 "${ours[@]}" "$bin/spillway-bench" split --device=cuda --quick --json="$out/split.json"
split=()
[[ ! -s $out/split.json ]] || split=("--split=$out/split.json")
budget_s=$((deadline - SECONDS < 100 ? deadline - SECONDS - 25 : 75))
((budget_s > 0)) || budget_s=1
run gpu_bench 100 "${ours[@]}" "$bin/spillway-bench" gpu --device=cuda --budget_s="$budget_s" --json="$out/gpu.json" "${split[@]}"
# The table alone: progress comes before it, then an empty line.
[[ ! -s $out/gpu_bench.log ]] || awk '/^$/ { table = 1; next } table' "$out/gpu_bench.log" > "$out/asked.txt"
if [[ -z $model ]]; then
  model=$out/tiny.gguf
  "${ours[@]}" "$bin/write-tiny-llama" "$model" > /dev/null || die "write-tiny-llama failed"
fi
run profile 30 "${ours[@]}" "$bin/spillwayd" --model="$model" --device=cuda --profile_only --profile="$out/profile.json"
sanitizer=$(command -v compute-sanitizer || true)
[[ -n $sanitizer ]] || sanitizer=/usr/local/cuda/bin/compute-sanitizer
if [[ -x $sanitizer ]]; then
  short='*Norm*/bf16:*Rope*/bf16:*RowsWithoutKeys*/bf16:*Ragged*/bf16:*Greedy*/bf16:*Logprob*/bf16:*Packed*/bf16'
  for tool in memcheck racecheck; do
    run "$tool" 60 "${ours[@]}" "$sanitizer" --tool "$tool" --error-exitcode 9 "$bin/device_gpu_test" \
      --gtest_filter="$short"
  done
else
  note "memcheck           skipped: no compute-sanitizer here"
fi
# What it is worth that kernels overlap (from compute capability 9.0): the same steps without.
run split_in_turn 40 "${ours[@]}" "$bin/spillway-bench" split --device=cuda --quick --models=grouped-query --unseen=0 \
  --overlap_kernels=off --json="$out/split-in-turn.json"
[[ -x $bin/gpu_spike ]] && run gpu_spike 200 "${ours[@]}" "$bin/gpu_spike"
finish "$failed" "\"$(sed 's/^on //; s/["\\]//g' <<< "$gpu")\""
