#!/bin/bash
# Packs what a GPU machine without registries needs to test and measure Spillway into one file.
#
# Usage: scripts/gpu-bundle.sh [--out=FILE]
#
# In it: the programs, the CUDA module and the tests that need a GPU, with every shared library that a plain
# Ubuntu 24.04 with CUDA 13 lacks, the tests' data, gpu-check.sh, and, where this machine has its source, the
# machine's own measurement (gpu_spike). Needs a built release preset with the CUDA module (nvcc 13).
#
#   --out=FILE   where to (default: build/spillway-gpu.tar.xz)
#   -h, --help   this text
#
# Environment: SPILLWAY_GPU_SPIKE   source of gpu_spike; left out where there is none
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$SPILLWAY_ROOT"

out=build/spillway-gpu.tar.xz
while (($# > 0)); do
  case $1 in
    --out=*) out=${1#--out=} ;;
    -h | --help) print_help; exit 0 ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done

bin=build/release/bin
programs=(spillwayd spillway spillway-bench device_gpu_test exec_gpu_test device_code_gpu_test write-tiny-llama)
module=$bin/libspillway_cuda.so
[[ -e $module ]] || die "$module is not there: build the release preset where nvcc 13 is found"
for program in "${programs[@]}"; do
  [[ -x $bin/$program ]] || die "$bin/$program is not there: build the release preset (cmake --build --preset release)"
done

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/spillway-gpu
mkdir -p "$root/bin" "$root/lib" "$root/tests" "$root/scripts"

step "programs"
for file in "${programs[@]/#/$bin/}" "$module"; do
  strip --strip-debug -o "$root/bin/$(basename "$file")" "$file"
  chmod +x "$root/bin/$(basename "$file")"
done
if [[ -r ${SPILLWAY_GPU_SPIKE:-} ]]; then
  nvcc=$(command -v nvcc || printf '%s/bin/nvcc' "${CUDA_PATH:-/usr/local/cuda}")
  # With PTX, so that it runs on GPUs of later kinds too.
  "$nvcc" -O3 -std=c++17 '-gencode=arch=compute_80,code=[sm_80,compute_80]' -gencode=arch=compute_90a,code=sm_90a \
    -Xcompiler=-mavx2,-pthread "$SPILLWAY_GPU_SPIKE" -o "$root/bin/gpu_spike" -lcublasLt
else
  warn "no gpu_spike: SPILLWAY_GPU_SPIKE names no source"
fi

step "libraries"
# The C library must be the target's own; CUDA's are there; the driver's never travel.
there='^(ld-linux.*|linux-vdso|libc|libm|libdl|librt|libpthread|libresolv|libcuda|libcudart|libcublas|libcublasLt|libnvidia-ml)\.so'
find "$root/bin" -type f -executable -print0 | xargs -0 ldd 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u |
  while read -r name path; do
    [[ $name =~ $there || $name == libspillway_cuda.so ]] || cp -L "$path" "$root/lib/$name"
  done

step "data"
cp -r tests/golden "$root/tests/"
cp scripts/gpu-check.sh scripts/gpu-logits.py scripts/lib.sh "$root/scripts/"
git rev-parse HEAD > "$root/COMMIT" 2>/dev/null || true

mkdir -p "$(dirname "$out")"
tar -C "$stage" -c spillway-gpu | xz -6 -T2 > "$out"
size=$(stat -c %s "$out")
((size < 60 * 1000 * 1000)) || die "$out is $size bytes: more than 60 MB"
say "$out, $((size / 1000000)) MB, $(find "$root/lib" -type f | wc -l) libraries"
printf '%s\n' "$out"
