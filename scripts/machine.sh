# What quickstart.sh looks at before it changes anything (sourced after lib.sh, never run). Each check says what it
# found; what makes going on pointless ends the script with the remedy.
# shellcheck shell=bash

# The folder that /etc, /proc and /sys are read under; tests put made-up ones there.
machine_root=''

check_processor() {
  [[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] ||
    die "Spillway runs on Linux on x86-64; this is $(uname -s) on $(uname -m)"
  local cpuinfo="$machine_root/proc/cpuinfo" flag missing=()
  for flag in cx16 popcnt sse4_1 sse4_2 ssse3; do
    grep -qwm1 "$flag" "$cpuinfo" || missing+=("$flag")
  done
  ((${#missing[@]} == 0)) || die "this processor is older than x86-64-v2 (it lacks ${missing[*]})"
  local speed='plain vector kernels'
  grep -qwm1 avx2 "$cpuinfo" && speed='AVX2'
  grep -qwm1 avx512f "$cpuinfo" && speed='AVX-512'
  grep -qwm1 avx512_bf16 "$cpuinfo" && speed='AVX-512 with bf16'
  say "processor: x86-64, $(nproc) cores, $speed"
}

# Fails with a warning where the distribution is untested: the caller asks whether to go on.
check_distribution() {
  local name='an unknown distribution' id='' version='' file="$machine_root/etc/os-release"
  if [[ -r $file ]]; then
    # shellcheck disable=SC1090  # the machine's own
    { read -r id; read -r version; read -r name; } < <(. "$file" && printf '%s\n' "${ID:-}" "${VERSION_ID:-}" "${PRETTY_NAME:-${ID:-an unknown distribution}}")
  fi
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    die "$name has no apt: Spillway's packages are named as in Debian 12, the only tested distribution"
  fi
  if [[ $id == debian && $version == 12 ]]; then
    say "distribution: $name"
    return
  fi
  warn "$name is untested: Debian 12 is the only tested distribution; packages or their versions may not fit"
  return 1
}

check_memory() {
  local available_mib=$1
  say "memory: $available_mib MiB available"
  ((available_mib >= 1536)) ||
    die "$available_mib MiB of memory are available: compiling takes about 2 GiB; stop other programs or add swap"
}

# The size of free space where `path` is or will be, in MiB.
free_disk_mib() {
  local path=$1
  while [[ ! -d $path ]]; do path=$(dirname "$path"); done
  df --output=avail -m "$path" | tail -n 1 | tr -d ' '
}

check_disk() {
  local where=$1 need_mib=$2 what=$3 free_mib
  free_mib=$(free_disk_mib "$where")
  ((free_mib >= need_mib)) ||
    die "$what needs about $need_mib MiB in $where, and $free_mib MiB are free: make room, or move the checkout or SPILLWAY_CACHE"
}

has_nvidia_gpu() {
  local device
  if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU '; then return 0; fi
  compgen -G "$machine_root/proc/driver/nvidia/gpus/*" >/dev/null && return 0
  for device in "$machine_root"/sys/bus/pci/devices/*; do
    if [[ -r $device/vendor && $(<"$device/vendor") == 0x10de && $(<"$device/class") == 0x03* ]]; then return 0; fi
  done
  return 1
}

# Today's build has one device, the CPU. Who has a GPU is told so, rather than left to wonder.
announce_gpu() {
  has_nvidia_gpu || return 0
  warn "this machine has an NVIDIA GPU, and this version of Spillway does not use it: it has no CUDA device yet."
  warn "What follows runs on the CPU."
  local nvcc=$machine_root/usr/local/cuda/bin/nvcc
  command -v nvcc >/dev/null && nvcc=$(command -v nvcc)
  if [[ ! -x $nvcc || ! $("$nvcc" --version) =~ release\ (1[3-9]|[2-9][0-9])\. ]]; then
    warn "The CUDA device will need nvcc 13 or later, which is not here either:"
    warn "install NVIDIA's package cuda-toolkit-13-0 (https://developer.nvidia.com/cuda-downloads)."
  fi
}

port_in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Packages can be installed: this is root, or sudo is here and will do it (asking for a password, if there is a terminal).
check_root() {
  local command=$1  # what root would have to run, for the remedy
  ((EUID == 0)) && return
  command -v sudo >/dev/null ||
    die "installing packages needs root, and this is user $(id -un) without sudo; let root run: $command"
  sudo -n true 2>/dev/null && return
  { : </dev/tty; } 2>/dev/null ||
    die "installing packages needs root: sudo wants a password, and there is no terminal to ask on; let root run: $command"
  say "sudo will ask for your password"
}
