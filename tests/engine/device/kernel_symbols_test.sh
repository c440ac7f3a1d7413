#!/bin/sh
# kernel_symbols_test.sh NM OBJECT...: code compiled for one instruction set stays in its file.
# A kernel file that defines a shared inline function or template lets the linker choose that copy for the whole
# program, which then dies on processors without the instructions. No function in it may be seen outside.
nm=$1
shift
[ $# -ge 4 ] || { echo "expected the kernel files, got: $*"; exit 1; }
status=0
for object in "$@"; do
  symbols=$("$nm" --extern-only --defined-only "$object") || exit 1
  echo "$symbols" | grep -q "Kernels" || { echo "$object does not define its table"; status=1; }
  seen=$(echo "$symbols" | awk '$2 ~ /[TWwui]/ {print $NF}')
  [ -z "$seen" ] || { echo "$object shares $seen"; status=1; }
done
exit $status
