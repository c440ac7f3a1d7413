#!/usr/bin/env python3
"""Proves the Dockerfile's CPU recipe where no container engine is: runs its own steps in roots that debootstrap makes,
starts the image's entry point as its user with a read-only root, and completes a prompt.

usage: prove-image.py [--keep] [--dir=DIR] [--ccache=FOLDER] [--list]

  --keep           leave the roots for a look around
  --dir=DIR        the folder to make them in (default: $TMPDIR or /tmp; 3 GB)
  --ccache=FOLDER  what the recipe's cache mount is (default: a new folder)
  --list           print the steps and stop; needs nothing

Needs root, debootstrap, a Debian mirror and the demo model (scripts/fetch-demo-model.sh). What differs from an engine:
debian:12-slim is a minimal Debian 12 made here, without what that image leaves out, and the context is what git knows of the work tree.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BASE = "debian:12-slim"
COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "cmake", "ninja", "make", "ld")

# Within the image: the entry point starts, its own health check waits for it, a prompt is completed, SIGTERM ends it.
SERVE = r"""
set -euo pipefail
if touch /probe 2>/dev/null; then echo "the root can be written" >&2; exit 1; fi
[[ $(id -u) == 10001 && $(id -g) == 10001 ]] || { echo "runs as $(id)" >&2; exit 1; }
touch /cache/probe
"${entry[@]}" --model=/models/model.gguf --host_pool=512MiB --lame_duck_ms=0 &
daemon=$!
until "${health[@]}" 2>/dev/null; do
  kill -0 "$daemon" || exit 1
  sleep 0.2
done
spillway complete --max_tokens=24 --temperature=0 "The capital of France is"
kill -TERM "$daemon"
wait "$daemon"
echo "exit 0 after SIGTERM"
"""


def logical_lines(text):
    """Instructions with their continuation lines joined, without comments."""
    line = ""
    for part in text.splitlines():
        if part.strip().startswith("#") or not (part.strip() or line):
            continue
        line += part.removesuffix("\\") if part.endswith("\\") else part
        if not part.endswith("\\"):
            yield re.sub(r"\s+", " ", line).strip()
            line = ""


def stages(text):
    """name -> (base, [(instruction, rest)])"""
    out, steps = {}, None
    for line in logical_lines(text):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            steps = []
            out[name] = (base, steps)
        elif steps is not None:
            steps.append((word, rest))
    return out


class Image:
    """One stage, made in a folder."""

    def __init__(self, root, made, ccache):
        self.root, self.made, self.ccache = root, made, ccache
        self.shell, self.workdir, self.environment = ["/bin/sh", "-c"], "/", {}
        self.settings = {}  # USER, ENTRYPOINT, HEALTHCHECK, ...

    def step(self, word, rest):
        handler = getattr(self, f"do_{word.lower()}", None)
        if handler:
            handler(rest)
        elif word in ("LABEL", "VOLUME", "EXPOSE", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"):
            self.settings[word] = rest
        else:
            sys.exit(f"this script does not know the instruction {word}")

    def do_shell(self, rest):
        self.shell = json.loads(rest)

    def do_workdir(self, rest):
        self.workdir = rest
        self.inside(rest).mkdir(parents=True, exist_ok=True)

    def do_env(self, rest):
        self.environment |= dict(item.split("=", 1) for item in shlex.split(rest))

    def inside(self, path):
        return self.root / os.path.join(self.workdir, path).lstrip("/")

    def do_copy(self, rest):
        *sources, target = shlex.split(rest)
        if any(source.startswith("--") for source in sources):
            sys.exit(f"this script does not know COPY {rest}")
        known = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True,
                               text=True).stdout.splitlines()
        for name in known:
            if not (ROOT / name).is_file():
                continue
            for source in sources:
                if source == ".":
                    to = self.inside(target) / name
                elif name == source:
                    to = self.inside(target) / pathlib.Path(name).name
                else:
                    continue
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, to)

    def do_run(self, rest):
        binds = []
        while match := re.match(r"--mount=(\S+) ", rest):
            rest = rest[match.end():]
            mount = dict(item.split("=", 1) for item in match[1].split(","))
            source = self.ccache if mount["type"] == "cache" else self.made[mount["from"]].root / mount["source"].lstrip("/")
            binds += [str(source), mount["target"]]
        script = f"cd {shlex.quote(self.workdir)} && exec {shlex.join([*self.shell, rest])}"
        self.execute(["bash", "-c", script], binds)
        for target in binds[1::2]:
            folder = self.root / target.lstrip("/")
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def execute(self, command, binds=()):
        text = f"""set -euo pipefail
            cd {shlex.quote(str(ROOT))}; source scripts/lib.sh; source scripts/debian-root.sh
            mapfile -t environment < <(debian_root_environment)
            BINDS=({shlex.join(binds)})
            in_debian_root {shlex.quote(str(self.root))} "${{environment[@]}}" {shlex.join(f'{k}={v}' for k, v in self.environment.items())} "$@" """
        done = subprocess.run(["bash", "-c", text, "prove-image", *command], check=False)
        if done.returncode != 0:
            sys.exit(f"failed with {done.returncode}: {command[-1][:200]}")

    def size_mib(self):
        return int(subprocess.run(["du", "-smx", self.root], check=True, capture_output=True, text=True).stdout.split()[0])

    def compressed_mib(self):
        """As a registry keeps it, nearly: one archive instead of one for each layer."""
        text = f"tar -C {shlex.quote(str(self.root))} --one-file-system -cf - . | gzip -6 | wc -c"
        return round(int(subprocess.run(["bash", "-c", text], check=True, capture_output=True, text=True).stdout) / 2**20)


# What debian:12-slim leaves out, of itself and of what is installed in it.
SLIM = r"""
printf '%s\n' "path-exclude /usr/share/doc/*" "path-include /usr/share/doc/*/copyright" "path-exclude /usr/share/info/*" \
  "path-exclude /usr/share/locale/*" "path-exclude /usr/share/man/*" >"$root/etc/dpkg/dpkg.cfg.d/docker"
printf '%s\n' 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };' \
  'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";' >"$root/etc/apt/apt.conf.d/docker-clean"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root"/usr/share/{info,locale,man}/*
find "$root/usr/share/doc" -type f ! -name copyright -delete
"""


def bare_root(folder):
    text = f"""set -euo pipefail
        cd {shlex.quote(str(ROOT))}; source scripts/lib.sh; source scripts/debian-root.sh
        root={shlex.quote(str(folder / "base"))}
        make_debian_root "$root" {shlex.quote(str(folder / "debootstrap.log"))}
        {SLIM}"""
    subprocess.run(["bash", "-c", text], check=True)
    return folder / "base"


def check(image):
    """What the recipe promises of the final stage."""
    user = image.settings["USER"]
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        sys.exit(f"USER {user} is no numeric user other than root")
    for name in COMPILERS:
        found = [folder for folder in ("bin", "usr/bin", "usr/local/bin") if (image.root / folder / name).exists()]
        if found:
            sys.exit(f"the image has a compiler or build tool: {found[0]}/{name}")
    bill = json.loads((image.root / "usr/share/doc/spillway/sbom.spdx.json").read_text())
    installed = subprocess.run(["dpkg-query", f"--admindir={image.root}/var/lib/dpkg", "-W"], check=True, capture_output=True,
                               text=True).stdout.count("\n")
    if len(bill["packages"]) != installed + 1:
        sys.exit(f"the bill of materials has {len(bill['packages'])} packages, the image {installed} and Spillway")
    return len(bill["packages"])


def serve(image, model):
    """Starts the entry point as the image's user, with a read-only root, in a network of its own."""
    entry = json.loads(image.settings["ENTRYPOINT"])
    health = json.loads(image.settings["HEALTHCHECK"].partition("CMD ")[2])
    volumes = json.loads(image.settings["VOLUME"])
    uid, gid = image.settings["USER"].split(":")
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **image.environment}
    script = f"entry=({shlex.join(entry)}) health=({shlex.join(health)})\n{SERVE}"
    text = f"""set -euo pipefail
        root={shlex.quote(str(image.root))}
        ip link set lo up
        mount --bind "$root" "$root"; mount -t proc proc "$root/proc"; mount -t tmpfs tmpfs "$root/dev"
        for device in null zero full random urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
        mount -o remount,bind,ro "$root"
        # Volumes: the model to read, the cache to write.
        [[ {shlex.quote(' '.join(volumes))} == "/models /cache" ]]
        mount -t tmpfs tmpfs "$root/models"; touch "$root/models/model.gguf"
        mount --bind {shlex.quote(str(model))} "$root/models/model.gguf"; mount -o remount,ro "$root/models"
        mount -t tmpfs -o uid={uid},gid={gid},size=64m tmpfs "$root/cache"
        exec env -i {shlex.join(f'{k}={v}' for k, v in environment.items())} chroot "$root" \\
          setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all bash -c "$0" """
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "bash", "-c", text, script], check=False,
                          stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    if done.returncode != 0 or "Paris" not in done.stdout or "exit 0 after SIGTERM" not in done.stdout:
        sys.exit(f"the image does not serve: exit {done.returncode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--dir", type=pathlib.Path, default=None)
    parser.add_argument("--ccache", type=pathlib.Path, default=None)
    parser.add_argument("--list", action="store_true")
    flags = parser.parse_args()
    recipe = stages((ROOT / "Dockerfile").read_text())
    wanted = ("cpu-build", "cpu")
    if flags.list:
        for name in wanted:
            print(f"FROM {recipe[name][0]} AS {name}", *(f"  {word} {rest}" for word, rest in recipe[name][1]), sep="\n")
        return
    if os.geteuid() != 0:
        sys.exit("debootstrap, chroot and mounts need root")
    model = subprocess.run([ROOT / "scripts/fetch-demo-model.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")[-2]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="spillway-image.", dir=flags.dir))
    ccache = flags.ccache or folder / "ccache"
    ccache.mkdir(exist_ok=True)
    try:
        began = time.monotonic()
        print("==> debian:12-slim, or near it", flush=True)
        base = bare_root(folder)
        made = {}
        for name in wanted:
            assert recipe[name][0] == BASE, f"FROM {recipe[name][0]}"
            subprocess.run(["cp", "-a", base, folder / name], check=True)
            made[name] = Image(folder / name, made, ccache)
            for word, rest in recipe[name][1]:
                print(f"==> {name}: {word} {rest[:100]}", flush=True)
                made[name].step(word, rest)
        image = made["cpu"]
        packages = check(image)
        print("==> the entry point, as its user, with a read-only root", flush=True)
        serve(image, model)
        bare = Image(base, {}, ccache)
        print(f"==> proven in {time.monotonic() - began:.0f} s: {image.size_mib()} MiB unpacked, {image.compressed_mib()} MiB compressed, of "
              f"which the base is {bare.size_mib()} and {bare.compressed_mib()}; {packages} entries in the bill of materials; no compiler")
    finally:
        if flags.keep:
            print(f"the roots are kept in {folder}")
        else:
            subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)


if __name__ == "__main__":
    main()
