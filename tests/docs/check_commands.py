#!/usr/bin/env python3
"""Every document with commands for a shell has a test that runs them, and the flags of commands that take too long for one exist.

Usage: check_commands.py ROOT BIN_FOLDER
"""

import pathlib
import re
import subprocess
import sys

RUN_BY = {  # document: the test that runs its ```sh blocks
    "README.md": "tests/docs/run_readme.py",
    "docs/operations.md": "tests/deploy/operations_test.py",
    "docs/security.md": "tests/docs/run_security.py",
    "examples/python/README.md": "tests/client/examples_test.py",  # but for what installs packages
}


def has_commands(text):
    return re.search(r"^```sh$", text, re.M) is not None


def unknown_flags(text, bin_folder):
    """Of spillway-bench, in blocks and in `spans`."""
    faults = []
    for span in re.findall(r"`(spillway-bench \w+[^`]*)`", text) + re.findall(r"^(spillway-bench \w+.*)$", text, re.M):
        program, scenario, *arguments = span.split()
        helped = subprocess.run([bin_folder / program, scenario, "--help"], capture_output=True, text=True, check=False)
        if helped.returncode != 0:
            faults.append(f"{span}: no such scenario")
        for flag in {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}:
            if not re.search(rf"{flag}\b", helped.stdout):
                faults.append(f"{span}: no {flag}")
    return faults


def main():
    root, bin_folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    documents = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("examples/**/*.md"), *root.glob("bench/**/*.md")]
    faults = []
    found = {str(file.relative_to(root)) for file in documents if has_commands(file.read_text())}
    faults += [f"{name}: no test runs its commands" for name in sorted(found - set(RUN_BY))]
    faults += [f"{name}: has no commands any more" for name in sorted(set(RUN_BY) - found)]
    faults += [f"{test} is not there" for test in RUN_BY.values() if not (root / test).is_file()]
    benchmarks = (root / "docs" / "benchmarks.md").read_text()
    if benchmarks.count("spillway-bench ") < 10:
        faults.append("docs/benchmarks.md has another form; the test has to follow")
    faults += unknown_flags(benchmarks, bin_folder)
    print("\n".join([*faults, f"{len(documents)} documents, {len(faults)} faults"]))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
