#!/bin/bash
# Proves that a bare Debian 12 is enough: makes one with debootstrap, puts a fresh clone of HEAD into it, and
# runs scripts/quickstart.sh there twice, then a third time without any network.
#
# Usage: scripts/prove-bare-debian.sh [--test] [--keep-root] [--dir=DIR]
#
#   --test        also run scripts/test.sh in it
#   --keep-root   leave the root for a look around
#   --dir=DIR     the folder to make it in (default: $TMPDIR or /tmp; 4 GB)
#   -h, --help    this text
#
# Needs root, debootstrap and a Debian mirror. Mirror, proxies, certificates and pip's configuration are taken
# from this machine, so that it works wherever this machine can install packages.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/debian-root.sh
source "$SPILLWAY_ROOT/scripts/debian-root.sh"
cd "$SPILLWAY_ROOT"

with_tests=0 keep_root=0 dir=
while (($# > 0)); do
  case $1 in
    --test) with_tests=1 ;;
    --keep-root) keep_root=1 ;;
    --dir=?*) dir=${1#*=} ;;
    -h | --help) print_help; exit 0 ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
  shift
done

((EUID == 0)) || die "debootstrap, chroot and mounts need root"
for tool in debootstrap git unshare ip python3; do
  command -v "$tool" >/dev/null || die "$tool is not here: apt-get install debootstrap git util-linux iproute2 python3"
done

dir=$(mktemp -d "${dir:-${TMPDIR:-/tmp}}/bare-debian.XXXXXX")
root="$dir/root"
mkdir "$root"
# Nothing is mounted outside of `inside`, so that removing the root removes nothing else.
cleanup() { if ((keep_root)); then say "the root is kept in $root"; else rm -rf --one-file-system "$dir"; fi; }
trap cleanup EXIT
trap 'exit 130' INT TERM

# ------------------------------------------------------------------------------------------- the root

step "A bare Debian 12"
make_debian_root "$root" "$dir/debootstrap.log"
mapfile -t environment < <(debian_root_environment)
inside() { in_debian_root "$root" "${environment[@]}" "$@"; }
inside_offline() {
  # A network of its own with nothing but loopback.
  unshare --net bash -c 'ip link set lo up && "$@"' offline bash -c "$(declare -f in_debian_root inside); $(declare -p root environment BINDS); inside \"\$@\"" inside "$@"
}

# A folder's name may have spaces.
clone="/root/a clone of spillway"
git clone --quiet --no-local "$SPILLWAY_ROOT" "$root$clone"
say "Debian $(<"$root/etc/debian_version"), $(inside dpkg-query -f . -W | wc -c) packages; a clone of $(git rev-parse --short HEAD)"

# ------------------------------------------------------------------------------------------- the proof

table=()
prove() {
  local what=$1 began=$SECONDS
  shift
  step "$what"
  "$@" || die "failed: $what"
  table+=("$(printf '%-40s passed  %5d s' "$what" $((SECONDS - began)))")
}
quickstart() {
  local log="$dir/answer"
  "$1" "$clone/scripts/quickstart.sh" --yes | tee "$log" || return 1
  grep -qi paris "$log" || { say "the answer does not name Paris"; return 1; }
}
nothing_left() {
  local leftover
  leftover=$(git -C "$root$clone" status --porcelain)
  [[ -z $leftover ]] || { say "the checkout has changed: $leftover"; return 1; }
}

prove "quickstart in a fresh clone" quickstart inside
prove "quickstart again" quickstart inside
prove "quickstart without a network" quickstart inside_offline
prove "the checkout is as it was" nothing_left
if ((with_tests)); then
  prove "test.sh" inside "$clone/scripts/test.sh"
fi

step "A bare Debian 12 is enough"
printf '    %s\n' "${table[@]}"
