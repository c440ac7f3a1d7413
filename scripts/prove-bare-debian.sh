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

# "uri suite" of Debian 12's archives as this machine knows them; Debian's own where it knows none.
debian_archives() {
  local found
  # shellcheck disable=SC2016  # apt's own variables
  found=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
    grep -E ' bookworm(-updates|-security)?$' | sort -u) || true
  printf '%s\n' "${found:-http://deb.debian.org/debian bookworm}"
}
mirror=$(debian_archives | awk '$2 == "bookworm" { print $1; exit }')

step "A bare Debian 12"
debootstrap --variant=minbase bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >"$dir/debootstrap.log" 2>&1 ||
  { tail -n 5 "$dir/debootstrap.log" >&2; die "debootstrap failed; its log ends above"; }
debian_archives | sed 's/^/deb /; s/$/ main/' >"$root/etc/apt/sources.list"
apt-config dump Acquire | grep -E '^Acquire::(https?|Check-|Force|Retries)' >"$root/etc/apt/apt.conf.d/99host" || true
cp /etc/resolv.conf /etc/hosts "$root/etc/"
if [[ -d /usr/local/share/ca-certificates ]]; then
  mkdir -p "$root/usr/local/share/ca-certificates"
  cp -RL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
fi
[[ ! -f /etc/pip.conf ]] || cp /etc/pip.conf "$root/etc/"
# A package must not start services in the root: it shares this machine's network.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "TERM=${TERM:-dumb}")
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
  [[ -z ${!name:-} ]] || environment+=("$name=${!name}")
done

# Runs a command in the root, in mount and process spaces of its own: when it ends, so do its mounts and
# everything that it left running.
inside() {
  # shellcheck disable=SC2016  # for the inner shell
  unshare --mount --pid --fork bash -c '
    root=$1; shift
    mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && mount -t tmpfs tmpfs "$root/tmp" &&
      mount -t tmpfs tmpfs "$root/dev" && mkdir "$root/dev/pts" "$root/dev/shm" || exit 1
    for device in null zero full random urandom tty; do
      touch "$root/dev/$device" && mount --bind "/dev/$device" "$root/dev/$device" || exit 1
    done
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666 && ln -s pts/ptmx "$root/dev/ptmx"
    mount -t tmpfs tmpfs "$root/dev/shm" || exit 1
    exec chroot "$root" env -i "$@"' inside "$root" "${environment[@]}" "$@" </dev/null
}
inside_offline() {
  # A network of its own with nothing but loopback.
  unshare --net bash -c 'ip link set lo up && "$@"' offline bash -c "$(declare -f inside); $(declare -p root environment); inside \"\$@\"" inside "$@"
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
