# A Debian 12 in a folder, and commands in it (sourced after lib.sh, never run). Needs root, debootstrap and unshare.
# shellcheck shell=bash

# "uri suite" of Debian 12's archives as this machine knows them; Debian's own where it knows none.
debian_archives() {
  local found
  # shellcheck disable=SC2016  # apt's own variables
  found=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
    grep -E ' bookworm(-updates|-security)?$' | sort -u) || true
  printf '%s\n' "${found:-http://deb.debian.org/debian bookworm}"
}

# Makes a minimal Debian 12 in a folder, with this machine's mirror, proxies and certificates.
make_debian_root() {
  local root=$1 log=$2 mirror
  mirror=$(debian_archives | awk '$2 == "bookworm" { print $1; exit }')
  debootstrap --variant=minbase bookworm "$root" "${mirror:-http://deb.debian.org/debian}" >"$log" 2>&1 ||
    { tail -n 5 "$log" >&2; die "debootstrap failed; its log ends above"; }
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
}

# The environment of commands in such a root, a variable a line.
debian_root_environment() {
  local name
  printf '%s\n' PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "TERM=${TERM:-dumb}"
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
    [[ -z ${!name:-} ]] || printf '%s\n' "$name=${!name}"
  done
}

BINDS=()  # SOURCE TARGET pairs that in_debian_root mounts too

# in_debian_root ROOT [NAME=VALUE...] COMMAND...: runs a command in the root, in mount and process spaces of its own:
# when it ends, so do its mounts and everything that it left running.
in_debian_root() {
  # shellcheck disable=SC2016  # for the inner shell
  unshare --mount --pid --fork bash -c '
    root=$1 binds=$2; shift 2
    for ((; binds > 0; --binds)); do
      mkdir -p "$root$2" && mount --rbind "$1" "$root$2" || exit 1
      shift 2
    done
    mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" && mount -t tmpfs tmpfs "$root/tmp" &&
      mount -t tmpfs tmpfs "$root/dev" && mkdir "$root/dev/pts" "$root/dev/shm" || exit 1
    for device in null zero full random urandom tty; do
      touch "$root/dev/$device" && mount --bind "/dev/$device" "$root/dev/$device" || exit 1
    done
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t devpts devpts "$root/dev/pts" -o newinstance,ptmxmode=0666 && ln -s pts/ptmx "$root/dev/ptmx"
    mount -t tmpfs tmpfs "$root/dev/shm" || exit 1
    exec chroot "$root" env -i "$@"' inside "$1" $((${#BINDS[@]} / 2)) "${BINDS[@]}" "${@:2}" </dev/null
}
