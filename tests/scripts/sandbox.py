"""A place to run scripts/ in without building or installing anything: a copy of the scripts in a folder whose name has
spaces, a PATH with fakes before the system's programs, and stand-ins for what a build makes."""

import atexit
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SYSTEM_FOLDERS = ("/bin", "/sbin", "/usr/bin", "/usr/sbin")
FAKED_OR_ABSENT = ("apt-get", "cmake", "df", "dpkg-query", "nvcc", "nvidia-smi", "sudo")
NOBODY = 65534

# Answers as if every package were installed.
ALL_INSTALLED = "printf installed"
# Answers as if no package were installed, until apt-get (INSTALLING) has been here.
NONE_INSTALLED = '[[ ! -e $SANDBOX/installed ]] || printf installed'
INSTALLING = 'echo "apt-get $*" >>"$SANDBOX/calls"; [[ " $* " != *" install "* ]] || touch "$SANDBOX/installed"'

# "Builds" the two programs that quickstart.sh runs.
CMAKE = """
echo "cmake $*" >>"$SANDBOX/calls"
if [[ $1 == --build ]]; then
  [[ ! -e $SANDBOX/build-fails ]] || exit 1
  mkdir -p build/release/bin
  cp "$SANDBOX/tools/fake-spillwayd" build/release/bin/spillwayd
  cp "$SANDBOX/tools/fake-spillway" build/release/bin/spillway
fi
"""
SPILLWAYD = """
printf '%s\\n' "$@" >"$SANDBOX/daemon-arguments"
echo $$ >"$SANDBOX/daemon-pid"
if [[ -e $SANDBOX/daemon-fails ]]; then echo "model.gguf: not a GGUF file" >&2; exit 1; fi
trap 'echo stopped >"$SANDBOX/daemon-stopped"; exit 0' TERM
for argument in "$@"; do [[ $argument != --address_file=* ]] || address=${argument#*=}; done
[[ -e $SANDBOX/daemon-never-ready ]] || echo '{"schema_version": 1, "grpc": "127.0.0.1:8090", "metrics": "127.0.0.1:8091"}' >"$address"
while :; do sleep 0.05; done
"""
SPILLWAY = """
case " $* " in
  *' complete '*)
    echo "spillway $*" >>"$SANDBOX/calls"
    if [[ -e $SANDBOX/answer-is-slow ]]; then touch "$SANDBOX/answering"; sleep 60; fi
    [[ ! -e $SANDBOX/answer-fails ]] || exit 1
    echo ' Paris.' ;;
esac
"""


@functools.cache
def system_without_faked():
    """A folder of links to the system's programs, made once, less those that a sandbox fakes or does not have."""
    holder = tempfile.TemporaryDirectory(prefix="spillway-system.")
    atexit.register(holder.cleanup)
    folder = pathlib.Path(holder.name)
    folder.chmod(0o755)
    for system in map(pathlib.Path, SYSTEM_FOLDERS):
        for program in system.iterdir() if system.is_dir() else []:
            if program.name not in FAKED_OR_ABSENT and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return folder


class Sandbox:
    """Made per test; `close` stops a daemon that a script left running and removes everything."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="spillway scripts."))
        self.folder.chmod(0o755)
        self.clone = self.folder / "a clone"
        shutil.copytree(ROOT / "scripts", self.clone / "scripts")
        (self.clone / "CMakePresets.json").write_text("{}")
        self.tools = self.folder / "tools"
        self.tools.mkdir()
        self.model = self.folder / "cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        self.model.parent.mkdir(parents=True)
        self.model.write_text("GGUF")
        self.environment = {"HOME": str(self.folder), "SANDBOX": str(self.folder), "PATH": f"{self.tools}:{system_without_faked()}",
                            "SPILLWAY_CACHE": str(self.folder / "cache"), "LC_ALL": "C.UTF-8"}
        self.fake("dpkg-query", ALL_INSTALLED)
        self.fake("apt-get", INSTALLING)
        self.fake("cmake", CMAKE)
        self.fake("fake-spillwayd", SPILLWAYD)
        self.fake("fake-spillway", SPILLWAY)
        self.fake("df", "echo Avail; echo ${FREE_MIB:-100000}")
        self.fake("nvidia-smi", "exit 9")
        # The demo model of a sandbox is four bytes: fetching is fetch-demo-model.sh's own test.
        self.write_script(self.clone / "scripts" / "fetch-demo-model.sh", f'echo "{self.model}"')

    @staticmethod
    def write_script(path, body):
        path.unlink(missing_ok=True)
        path.write_text("#!/bin/bash\n" + body + "\n")
        path.chmod(0o755)

    def fake(self, program, body):
        self.write_script(self.tools / program, body)

    def without(self, *programs):
        for program in programs:
            (self.tools / program).unlink(missing_ok=True)

    def flag(self, name):
        (self.folder / name).touch()

    def text(self, name):
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def start(self, *command, as_nobody=False, cwd=None, **environment):
        """Starts a script (its path relative to the clone), in a session and so a process group of its own."""
        user = {}
        if as_nobody and os.geteuid() == 0:
            subprocess.run(["chown", "-R", str(NOBODY), self.folder], check=True)
            user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        return subprocess.Popen([str(self.clone / command[0]), *command[1:]], cwd=cwd or self.clone, text=True,
                                env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **user)

    def run(self, *command, **how):
        process = self.start(*command, **how)
        process.out, process.err = process.communicate(timeout=120)
        return process

    def source(self, library, code, **environment):
        """Runs `code` after sourcing lib.sh and another library of scripts/."""
        script = f'set -euo pipefail; source scripts/lib.sh; source "scripts/{library}"; {code}'
        return subprocess.run(["bash", "-c", script], cwd=self.clone, text=True, capture_output=True, timeout=60,
                              env={**self.environment, **environment}, stdin=subprocess.DEVNULL, check=False)

    def wait_for(self, name, deadline_s=60):
        give_up = time.monotonic() + deadline_s
        while not (self.folder / name).exists():
            if time.monotonic() > give_up:
                raise AssertionError(f"{name} did not appear")
            time.sleep(0.02)

    def daemon_runs(self):
        pid = self.text("daemon-pid").strip()
        if not pid:
            return False
        try:
            return "spillwayd" in pathlib.Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return False

    def close(self):
        if self.daemon_runs():
            os.kill(int(self.text("daemon-pid")), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            sys.exit(f"{self.folder} could not be removed")

