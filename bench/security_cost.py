#!/usr/bin/env python3
"""What TLS, tokens and tenants cost: daemons with and without them in turn, under the same load.

Usage: security_cost.py --model=FILE.gguf --tiny=FILE.gguf [--bin=build/release/bin] [--rounds=3] [--json=FILE [--append]]

Prints medians over the rounds, and how far the ways of one round lie apart:
- tokens/s of a closed loop of 64 streams on --model, in plain text and over TLS, client and daemon on one machine;
- CPU of the server per generated token on --tiny, a model so small that serving is most of the work, likewise;
- CPU of the daemon per request of two tokens on --tiny: open, with a token and its tenant's limits, and with 4,096 tokens
  in the file. The differences are what authentication and admission cost.
Needs the openssl program. Run it on an idle machine: the ways alternate within a round, but the differences are small. A round
takes under two minutes; with --append it is added to those that FILE has.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SERVER, METRICS = "127.0.0.1:18190", "127.0.0.1:18191"


def run(*arguments, **options):
    return subprocess.run([str(a) for a in arguments], check=True, capture_output=True, text=True, **options)


def make_certificates(folder):
    """A self-signed certificate of localhost."""
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", folder / "key.pem", "-out", folder / "certificate.pem")


def make_tokens(folder, programs):
    """One token, and the same one behind 4,095 others."""
    one = folder / "one.json"
    token = run(programs / "spillway", "token", "--tenant=bench", "--role=admin", "--max_concurrent_requests=100000",
                "--tokens_per_minute=1000000000000", f"--tokens_file={one}").stdout
    (folder / "token").write_text(token)
    table = json.loads(one.read_text())
    others = [{"sha256": hashlib.sha256(str(i).encode()).hexdigest(), "tenant": f"other{i % 200}"} for i in range(4095)]
    table["tokens"] = others + table["tokens"]
    (folder / "many.json").write_text(json.dumps(table))


@contextlib.contextmanager
def daemon(programs, *flags):
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([programs / "spillwayd", f"--listen={SERVER}", f"--metrics_listen={METRICS}",
                                    "--lame_duck_ms=0", "--log_level=error", "--max_sequences=64", *flags], stderr=log)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    log.seek(0)
                    sys.exit(f"spillwayd ended:\n{log.read().decode()}")
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    with urllib.request.urlopen(f"http://{METRICS}/readyz", timeout=5):
                        break
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def bench(programs, folder, *arguments):
    report = folder / "report.json"
    run(programs / "spillway-bench", *arguments, f"--server={SERVER}", f"--metrics={METRICS}", f"--json={report}")
    return json.loads(report.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tiny", required=True)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", default="")
    parser.add_argument("--append", action="store_true", help="add the rounds to those of --json")
    options = parser.parse_args()
    programs = pathlib.Path(options.bin).resolve()
    raw, load_averages = {}, []
    if options.append and os.path.exists(options.json):
        before = json.loads(pathlib.Path(options.json).read_text())
        raw, load_averages = before["raw"], before["load_averages"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        make_certificates(folder)
        make_tokens(folder, programs)
        tls = ([f"--tls_certificate={folder}/certificate.pem", f"--tls_key={folder}/key.pem"],
               [f"--tls_ca={folder}/certificate.pem", "--tls_server_name=localhost"])
        token = [f"--token_file={folder}/token"]
        ways = {"plain": ([], []), "tls": tls}
        accesses = {"open": ([], []), "one token": ([f"--tokens_file={folder}/one.json"], token),
                    "4,096 tokens": ([f"--tokens_file={folder}/many.json"], token)}
        tiny = [f"--model={options.tiny}", "--threads=1", "--host_pool=256MiB"]
        for _ in range(options.rounds):
            # Backwards every other time: what comes first finds another machine.
            turn = 1 if len(load_averages) % 2 == 0 else -1
            load_averages.append(os.getloadavg()[0])
            for way, (flags, client) in list(ways.items())[::turn]:
                with daemon(programs, f"--model={options.model}", "--host_pool=2GiB", *flags):
                    report = bench(programs, folder, "serve", "--concurrency=64", f"--duration_s={options.seconds}", "--warmup=64",
                                   "--prompt_tokens=fixed:16", "--output_tokens=fixed:64", *client)
                raw.setdefault(f"tokens/s, 64 streams, {way}", []).append(report["results"]["generated_tokens_per_s"])
                with daemon(programs, *tiny, *flags):
                    report = bench(programs, folder, "server_cpu", f"--model={options.tiny}", "--duration_s=8", *client)
                raw.setdefault(f"server CPU, us a token, {way}", []).append(report["cpu_us_per_token"]["server"])
                raw.setdefault(f"server CPU, us a delta, {way}", []).append(report["server_cpu_us_per_delta"])
            for access, (flags, client) in list(accesses.items())[::turn]:
                with daemon(programs, *tiny, *flags):
                    report = bench(programs, folder, "server_cpu", f"--model={options.tiny}", "--concurrency=16", "--prompt_tokens=4",
                                   "--output_tokens=2", "--duration_s=8", *client)
                # Of two tokens: with one there would be no decode step for the benchmark to see.
                raw.setdefault(f"daemon CPU, us a request, {access}", []).append(2 * report["cpu_us_per_token"]["total"])
    median = {name: statistics.median(values) for name, values in raw.items()}
    for name, values in raw.items():
        print(f"{name:45s} {median[name]:9.1f}   ({', '.join(f'{value:.1f}' for value in values)})")
    # Of the two that a round measured one after the other.
    names = [f"daemon CPU, us a request, {access}" for access in accesses]
    differences = {
        "tls_cost_percent": [100 * (1 - secure / plain) for plain, secure in zip(*(raw[f"tokens/s, 64 streams, {way}"] for way in ways))],
        "tls_us_a_delta": [secure - plain for plain, secure in zip(*(raw[f"server CPU, us a delta, {way}"] for way in ways))],
        "token_us_a_request": [one - open_ for open_, one in zip(raw[names[0]], raw[names[1]])],
        "many_tokens_us_a_request": [many - open_ for open_, many in zip(raw[names[0]], raw[names[2]])]}
    summary = {name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)} for name, values in differences.items()}
    for name, of in summary.items():
        print(f"{name:45s} {of['median']:9.1f}   ({of['lowest']:.1f} to {of['highest']:.1f} in {len(differences[name])} rounds)")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(
            {"schema_version": 1, "benchmark": "security_cost", "load_averages": load_averages, "model": os.path.basename(options.model),
             "summary": summary, "raw": raw}, indent=1) + "\n")


if __name__ == "__main__":
    main()
