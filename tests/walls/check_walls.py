#!/usr/bin/env python3
"""Checks the walls between the rooms: who may include whom, which library may be named where, and a few words.

Usage: check_walls.py [ROOT]    prints one line per breach; exit 1 when there is one
"""

import pathlib
import re
import subprocess
import sys

# Longest prefix wins. A room may include itself and what is listed; order follows the flow of the program.
ROOMS = {
    "base": [],
    "engine/device": ["base"],
    "engine/device/cpu": ["base", "engine/device"],
    "engine/device/cuda": ["base", "engine/device"],
    "engine/text": ["base"],
    "engine/model": ["base", "engine/device", "engine/text"],
    "engine/kv": ["base", "engine/device", "engine/text", "engine/model"],
    "engine/exec": ["base", "engine/device", "engine/text", "engine/model", "engine/kv"],
    "profiler": ["base", "engine"],
    "scheduler": ["base", "engine", "profiler"],
    "proto": [],
    "server": ["base", "engine", "profiler", "scheduler", "proto"],
    "client": ["base", "proto"],
    "bench": ["base", "engine", "profiler", "scheduler", "proto", "client"],
    "tests": ["base", "engine", "profiler", "scheduler", "proto", "server", "client", "bench"],
}

# Single files that reach further than their room, and for what: pure functions without a daemon behind them.
EXCEPTIONS = {
    # `spillway plan --profile=FILE` explains a plan where no daemon runs.
    "client/plan.cc": ["profiler/machine_profile.h", "scheduler/plan_explanation.h"],
    "client/plan_kubernetes.h": ["profiler/machine_profile.h", "scheduler/plan_explanation.h"],
}

# Concrete devices are rooms of their own: their parents' readers do not reach them. These do.
DEVICES = ("engine/device/cpu", "engine/device/cuda")
MAY_NAME_A_DEVICE = re.compile(r"^(server/main\.cc|bench/|tests/)")

# (what, includes, files that may have them, at most so many files besides tests)
LIBRARIES = [
    ("GLPK", r"glpk\.h", r"scheduler/linear_program\.cc", 1),
    ("the Prometheus library", r"prometheus/", r"server/", 1),
    ("protobuf", r"google/(protobuf|rpc)/|.*\.pb\.h$", r"(server|client|bench|tests)/", None),
    ("gRPC", r"grpc(pp)?/|grpc\+\+/", r"(server|client|bench|tests)/", None),
    ("CUDA", r"cuda|cublas|nvtx|nvml", r"engine/device/cuda/", None),
    ("oneDNN", r"(oneapi/dnnl/)?dnnl", r"(engine/device/cpu|bench)/", None),
    ("OpenSSL", r"openssl/",
     r"(base/sha256|engine/kv/block_hasher|engine/model/fingerprint|profiler/profile_identity|server/certificates)\.cc$",
     None),
    ("PCRE2", r"pcre2", r"engine/text/", None),
]

WORDS = [
    (re.compile(r"\b(?:class|struct|enum)\s+(?:\w+\s+)*?\w*(?:Manager|Helper|Utils?)\b"),
     "names a type Manager, Helper or Util: say the thing"),
    (re.compile(r"gbps", re.I), "says gbps: rates are bytes per second (_gb_per_s)"),
    (re.compile(r"\b(?:FIXME|XXX)\b|\bTODO\b(?!.*\b(?:waits? for|until|when|once)\b)"),
     "leaves a TODO that does not say what it waits for"),
    (re.compile(r"#include [<\"]absl/log/"), "includes absl/log, which Debian 12's Abseil does not have"),
    (re.compile(r"^\s*throw\b"), "throws: our code returns absl::Status"),
    (re.compile(r"\busing namespace\b"), "says using namespace"),
    (re.compile(r"(?<![\w.$}/])/(?:home|Users)/\w"), "names a path of one machine"),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')
SOURCES = {".h", ".cc", ".cu", ".cuh"}


def room_of(path):
    """The room of a file or of an include, or None outside of all rooms."""
    found = [room for room in ROOMS if path.startswith(room + "/")]
    return max(found, key=len) if found else None


def inside(room, listed):
    return room == listed or (room.startswith(listed + "/") and room not in DEVICES)


def may_include(path, includer, included):
    if included in DEVICES and includer != included:
        return bool(MAY_NAME_A_DEVICE.match(path))
    return includer == included or any(inside(included, listed) for listed in ROOMS[includer])


def check(files):
    """files: {path from the root: text}. Returns the breaches, "path:line: what"."""
    breaches = []
    users = {}
    for path, text in sorted(files.items()):
        room = room_of(path)
        if pathlib.PurePosixPath(path).suffix not in SOURCES:
            continue
        if room is None:
            if path.startswith("engine/"):
                breaches.append(f"{path}:1: belongs to no room of the engine")
            continue
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{path}:{number}"
            for pattern, message in WORDS:
                if pattern.search(line):
                    breaches.append(f"{where}: {message}")
            include = INCLUDE.match(line)
            if not include:
                continue
            target = include.group(1)
            for name, pattern, allowed, _ in LIBRARIES:
                if re.match(pattern, target):
                    if not re.match(allowed, path) and not path.startswith("tests/"):
                        breaches.append(f"{where}: {name} outside its wall ({allowed})")
                    elif not path.startswith("tests/"):
                        users.setdefault(name, set()).add(path)
            target_room = room_of(target)
            excepted = target in EXCEPTIONS.get(path, [])
            if target_room and target_room != "proto" and not excepted and not may_include(path, room, target_room):
                breaches.append(f"{where}: {room} may not include {target_room}")
    for name, _, _, most in LIBRARIES:
        if most is not None and len(users.get(name, ())) > most:
            breaches.append(f"{', '.join(sorted(users[name]))}: {name} belongs in one source file")
    return breaches


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    # What git knows or would add, so that build folders do not count; every file where there is no git.
    listing = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"], capture_output=True,
                             text=True, check=False)
    if listing.returncode == 0:
        names = [name for name in listing.stdout.splitlines() if (root / name).is_file()]
    else:
        names = [str(p.relative_to(root)) for room in {r.split("/")[0] for r in ROOMS}
                 for p in (root / room).rglob("*") if p.is_file()]
    files = {name: (root / name).read_text(errors="replace") for name in names
             if pathlib.PurePosixPath(name).suffix in SOURCES}
    if not files:
        sys.exit(f"no sources found in {root}")
    breaches = check(files)
    print("\n".join(breaches + [f"{len(files)} sources, {len(breaches)} breaches"]))
    sys.exit(1 if breaches else 0)


if __name__ == "__main__":
    main()
