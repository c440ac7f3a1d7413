#!/usr/bin/env python3
"""Runs the Python examples as their README says, against a daemon.

Usage: examples_test.py --server=HOST:PORT                     a daemon that is there, or
       examples_test.py --spillwayd=PATH --model=FILE.gguf     one of its own
Needs grpcio and grpcio-tools. Exits 0 when every example answered, 77 when they cannot be run.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"
OPTIONS = argparse.Namespace(server="", spillwayd="", model="")


@contextlib.contextmanager
def daemon():
    """The address of a daemon that serves."""
    if OPTIONS.server:
        yield OPTIONS.server
        return
    with tempfile.TemporaryDirectory() as folder:
        address_file = pathlib.Path(folder) / "address.json"
        log = pathlib.Path(folder) / "log"
        with open(log, "wb") as stderr:
            process = subprocess.Popen(
                [OPTIONS.spillwayd, f"--model={OPTIONS.model}", "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                 f"--address_file={address_file}", "--host_pool=64MiB"], stderr=stderr)
        try:
            deadline = time.monotonic() + 60
            while not address_file.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            if not address_file.exists():
                raise RuntimeError(f"spillwayd did not start:\n{log.read_text()}")
            yield json.loads(address_file.read_text())["grpc"]
        finally:
            process.terminate()
            process.wait(timeout=60)


class ExamplesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        cls.stubs = cls.stack.enter_context(tempfile.TemporaryDirectory())
        subprocess.run([EXAMPLES / "generate_stubs.sh", cls.stubs], check=True)
        cls.server = cls.stack.enter_context(daemon())
        cls.wait_until_serving()

    @classmethod
    def tearDownClass(cls):
        cls.stack.close()

    @classmethod
    def run_example(cls, name, *arguments, text=""):
        return subprocess.run(
            [sys.executable, EXAMPLES / name, *arguments], input=text, capture_output=True, text=True, timeout=120,
            check=False, env={**os.environ, "PYTHONPATH": cls.stubs})

    @classmethod
    def wait_until_serving(cls):
        """The port answers from the start; calls are refused while the model loads."""
        import grpc

        sys.path.insert(0, cls.stubs)
        from spillway.v1 import inference_pb2, inference_pb2_grpc

        with grpc.insecure_channel(cls.server) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            deadline = time.monotonic() + 60
            while True:
                try:
                    stub.GetModel(inference_pb2.GetModelRequest(), timeout=10)
                    return
                except grpc.RpcError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.1)

    def test_complete_streams_text(self):
        result = self.run_example("complete.py", "The capital of France is", self.server)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertGreater(len(result.stdout.strip()), 0)

    def test_complete_is_as_short_as_promised(self):
        lines = (EXAMPLES / "complete.py").read_text().splitlines()
        code = [line for line in lines if line.strip() and not line.startswith(("#", '"""'))]
        self.assertLessEqual(len(code), 15)

    def test_chat_answers_every_message(self):
        result = self.run_example("chat.py", f"--server={self.server}", "--system=Be brief.",
                                  "--max_tokens=16", text="Hello\nAnd again?\n")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr.count("tokens, the first after"), 2, result.stderr)

    def test_chat_explains_errors(self):
        result = self.run_example("chat.py", f"--server={self.server}", text="word " * 50_000)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("INVALID_ARGUMENT", result.stderr)
        self.assertIn("reason PROMPT_TOO_LONG", result.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="")
    parser.add_argument("--spillwayd", default="")
    parser.add_argument("--model", default="")
    OPTIONS, rest = parser.parse_known_args()
    if not OPTIONS.server and not (OPTIONS.spillwayd and OPTIONS.model):
        parser.error("give --server, or --spillwayd and --model")
    if importlib.util.find_spec("grpc_tools") is None:
        print("skipped: grpcio-tools is not installed (scripts/test.sh does; or pip install grpcio grpcio-tools)")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
