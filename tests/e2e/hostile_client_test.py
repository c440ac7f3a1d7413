#!/usr/bin/env python3
"""Does to a daemon what no honest client does. It must live, say that it is well, and serve others meanwhile.

Usage: hostile_client_test.py --spillwayd=PATH --model=FILE.gguf [--memory_factor=N] [unittest's own arguments]
Needs nothing but Python: HTTP/2 is spoken by hand (http2_by_hand.py).
"""

import argparse
import gzip
import json
import os
import pathlib
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import http2_by_hand as h2

OPTIONS = argparse.Namespace(spillwayd="", model="", memory_factor=1.0)
INFERENCE = "/spillway.v1.InferenceService/"
HEALTH = "/grpc.health.v1.Health/"
MIB = 1 << 20


class Daemon:
    """A spillwayd of the test's own."""

    def __init__(self, *flags, open_files=0, tls=None, metadata=()):
        """`tls` and `metadata`: what its honest clients come with."""
        self.tls, self.metadata = tls, metadata
        self.folder = tempfile.TemporaryDirectory()
        address_file = pathlib.Path(self.folder.name) / "address.json"
        self.log_file = pathlib.Path(self.folder.name) / "log"

        def limit():
            if open_files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

        with open(self.log_file, "wb") as stderr:
            self.process = subprocess.Popen(
                [OPTIONS.spillwayd, f"--model={OPTIONS.model}", "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                 f"--address_file={address_file}", "--host_pool=64MiB", "--threads=1", *flags],
                stderr=stderr, preexec_fn=limit)
        self.wait_for(address_file.exists, "the address file")
        addresses = json.loads(address_file.read_text())
        self.grpc, self.metrics = addresses["grpc"], addresses["metrics"]
        self.wait_for(lambda: self.get("/readyz")[0] == 200, "readiness")

    def stop(self):
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = "hung"
        self.folder.cleanup()
        return code

    def log(self):
        return self.log_file.read_text(errors="replace")

    def wait_for(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"spillwayd ended with {self.process.returncode}:\n{self.log()}")
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError(f"waited in vain for {what}:\n{self.log()[-4000:]}")

    def get(self, path):
        """(code, body) over HTTP; code 0 when there is no answer."""
        host, port = self.metrics.rsplit(":", 1)
        data = b""
        try:
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                while more := connection.recv(1 << 16):
                    data += more
        except OSError:
            pass
        head, _, body = data.partition(b"\r\n\r\n")
        return (int(head[9:12]) if head[9:12].isdigit() else 0), body.decode(errors="replace")

    def metric(self, series):
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(series + " "):
                return float(line.split()[-1])
        raise AssertionError(f"no {series}")

    def rss_mib(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))

    def connect(self, timeout=30):
        return h2.Connection(self.grpc, timeout, self.tls)

    def answers(self):
        """A new connection's call is answered."""
        try:
            with self.connect() as connection:
                return connection.call(HEALTH + "Check", b"")[0] == "ended"
        except OSError:
            return False


class Witness(threading.Thread):
    """An honest client: stream after stream on one connection, each of which must come whole."""

    def __init__(self, daemon):
        super().__init__()
        self.daemon_under_test = daemon
        self.stopping = threading.Event()
        self.streams = 0
        self.fault = ""
        self.connection = daemon.connect(timeout=60)
        self.start()

    def run(self):
        tokens = 200
        try:
            while not self.stopping.is_set():
                how, data = self.connection.call(INFERENCE + "StreamComplete", h2.complete_request("the quick", tokens),
                                                 self.daemon_under_test.metadata)
                # By the usage at the end, not by the bytes: who reads slowly gets several tokens in one event.
                if how != "ended" or h2.field(3, tokens) not in data:
                    self.fault = f"stream {self.streams}: {how} after {len(data)} bytes"
                    return
                self.streams += 1
        except OSError as error:
            self.fault = f"stream {self.streams}: {error}"

    def stop(self):
        self.stopping.set()
        self.join()
        self.connection.close()


class HostileTest(unittest.TestCase):

    def assert_grew_less(self, grown_mib, bound_mib, why=None):
        self.assertLess(grown_mib, bound_mib * OPTIONS.memory_factor, why)


class HostileClientTest(HostileTest):
    # A flood makes the daemon itself late with what honest readers wait for, by seconds when it is sanitized.
    FLAGS = ("--slow_reader_timeout_ms=8000", "--receive_timeout_ms=3000", "--max_connections=64", "--network_memory=128MiB")
    OPEN_FILES = 0

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(*cls.FLAGS, open_files=cls.OPEN_FILES)

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        assert code == 0, f"spillwayd ended with {code}"

    def setUp(self):
        self.daemon.wait_for(self.daemon.answers, "an answer before the test")
        self.witness = Witness(self.daemon)

    def tearDown(self):
        before = self.witness.streams
        self.daemon.wait_for(lambda: self.witness.fault or self.witness.streams > before, "the witness")
        self.witness.stop()
        self.assertEqual(self.witness.fault, "", self.daemon.log()[-3000:])
        self.daemon.wait_for(self.daemon.answers, "an answer after the test")
        self.assertEqual(self.daemon.get("/livez")[0], 200)
        self.assertEqual(self.daemon.get("/readyz")[0], 200)

    def connect(self):
        connection = self.daemon.connect()
        self.addCleanup(connection.close)
        return connection

    def test_huge_metadata(self):
        for size in (4 << 10, 15 << 10, 1 << 20):
            with h2.Connection(self.daemon.grpc) as connection:
                try:
                    block = h2.request_headers(HEALTH + "Check", [("x", "v" * size)])
                    connection.socket.sendall(h2.frame(h2.HEADERS, 0, 1, block[:16384]))
                    for begin in range(16384, len(block), 16384):
                        connection.socket.sendall(
                            h2.frame(h2.CONTINUATION, 0, 1, block[begin:begin + 16384]))
                    connection.socket.sendall(h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1))
                    connection.finish(1)
                except OSError:
                    pass
        # Fields that name each other's length wrongly, and a table size beyond every limit.
        for block in (b"\x00\x7f\xff\xff\xff\xff\xff", b"\x3f\xe1\xff\xff\xff\x7f", b"\xff" * 100, b"\x00\x03abc"):
            with h2.Connection(self.daemon.grpc) as connection:
                connection.socket.sendall(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, block))
                connection.finish(1)

    def test_endless_continuation(self):
        with h2.Connection(self.daemon.grpc) as connection:
            before = self.daemon.rss_mib()
            try:
                connection.socket.sendall(h2.frame(h2.HEADERS, 0, 1, h2.request_headers(HEALTH + "Check")))
                for _ in range(4000):
                    connection.socket.sendall(h2.frame(h2.CONTINUATION, 0, 1, h2.header("x", "v" * 8000)))
            except OSError:
                pass
            self.assert_grew_less(self.daemon.rss_mib() - before, 64)

    def test_headers_without_end_before_the_settings_are_acknowledged(self):
        """gRPC bounds headers for clients that acknowledge its settings alone, and keeps every field of others."""
        for value in (b"", b"v" * 20):
            fields = h2.header("x", value.decode()) * 400
            with self.connect() as honest, h2.Connection(self.daemon.grpc, 2) as connection:
                self.assertEqual(honest.call(HEALTH + "Check", b"")[0], "ended")
                before, cut = self.daemon.rss_mib(), self.daemon.metric('spillway_connections_refused_total{reason="flood"}')
                with self.assertRaises(OSError, msg="the connection is cut"):
                    connection.socket.sendall(h2.frame(h2.HEADERS, 0, 1, h2.request_headers(HEALTH + "Check")))
                    for _ in range(20000):
                        connection.socket.sendall(h2.frame(h2.CONTINUATION, 0, 1, fields))
                self.assert_grew_less(self.daemon.rss_mib() - before, 192)
                self.assertEqual(self.daemon.metric('spillway_connections_refused_total{reason="flood"}'), cut + 1)
                self.assertEqual(honest.call(HEALTH + "Check", b"")[0], "ended")

    def test_a_header_that_claims_to_be_long(self):
        """gRPC searches what has come of a string again with each piece of it: the time grows with the square."""
        with h2.Connection(self.daemon.grpc, 2) as connection, self.assertRaises(OSError, msg="the connection is cut"):
            head = h2.request_headers(HEALTH + "Check") + b"\x00\x01x\x7f" + b"\xff\xff\xff\xff\x03"
            connection.socket.sendall(h2.frame(h2.HEADERS, 0, 1, head))
            for _ in range(4000):
                connection.socket.sendall(h2.frame(h2.CONTINUATION, 0, 1, b"v" * 16000))

    def test_invalid_messages(self):
        payloads = [b"\xff" * 100, b"\x12\x7fshort", h2.field(2, b"\xff\xfe"), b"\x00", os.urandom(3000),
                    h2.field(4, h2.field(4, h2.field(1, b"\x80" * 300) * 100)), h2.varint(1 << 62) * 50]
        nested = b""
        for _ in range(3000):
            nested = h2.field(4, nested)
        payloads.append(nested)
        for method in ("Complete", "StreamComplete", "Chat", "StreamChat", "Tokenize", "Detokenize", "GetModel"):
            connection = self.connect()
            for payload in payloads:
                self.assertEqual(connection.call(INFERENCE + method, payload)[0], "ended", method)

    def test_wrong_methods_and_headers(self):
        connection = self.connect()
        for path in ("/", "//", "/no.such.Service/Method", INFERENCE + "NoSuch", INFERENCE, "x" * 4000, "",
                     INFERENCE + "Complete/../Chat", "/grpc.health.v1.Health/\xff"):
            connection.call(path, b"")
        for extra in ([("grpc-timeout", "1n")], [("grpc-timeout", "-1S")], [("grpc-timeout", "99999999H")],
                      [("grpc-timeout", "x")], [("grpc-encoding", "nonsense")], [("content-type", "text/html")],
                      [(":method", "GET")], [("grpc-status", "0")], [("te", "x")], [("x-bin", "not base64!")]):
            other = self.connect()
            other.call(INFERENCE + "Complete", h2.complete_request("x", 2), extra)

    def test_lying_lengths_and_compressed_bombs(self):
        connection = self.connect()
        bomb = gzip.compress(b"\0" * (256 * MIB), 9)
        before = self.daemon.rss_mib()
        for framed, extra in (
                (h2.message(b"abc", claimed=0xFFFFFFFF), ()),
                (h2.message(b"abc", claimed=2), ()),
                (h2.message(b"", claimed=17 * MIB), ()),
                (b"\x07" + b"\0" * 4, ()),
                (h2.message(bomb, compressed=1), [("grpc-encoding", "gzip")]),
                (h2.message(b"no gzip at all", compressed=1), [("grpc-encoding", "gzip")]),
                (h2.message(b"abc", compressed=1), ())):
            stream = connection.start(INFERENCE + "Complete", extra)
            while framed:
                sent = connection.send(stream, framed, end=True)
                framed = framed[sent:]
                if not sent and connection.read() is None:
                    break
            connection.finish(stream)
        self.assert_grew_less(self.daemon.rss_mib() - before, 400, "a bomb must not unfold beyond the receive limit")

    def test_rapid_resets(self):
        for _ in range(3):
            connection = self.connect()
            request = h2.message(h2.complete_request("the quick brown fox", 400))
            try:
                for _ in range(3000):
                    stream = connection.next_stream
                    connection.next_stream += 2
                    connection.socket.sendall(
                        h2.frame(h2.HEADERS, h2.END_HEADERS, stream,
                                 h2.request_headers(INFERENCE + "StreamComplete")) +
                        h2.frame(h2.DATA, h2.END_STREAM, stream, request) +
                        h2.frame(h2.RST_STREAM, 0, stream, struct.pack(">I", 8)))
                    while select.select([connection.socket], [], [], 0)[0]:
                        if not connection.socket.recv(1 << 16):
                            raise ConnectionError
            except OSError:
                pass
        self.daemon.wait_for(lambda: self.daemon.metric('spillway_requests_waiting') < 16, "an empty queue")

    def test_floods_of_control_frames(self):
        for kind, payload in ((h2.PING, b"8 bytes."), (h2.SETTINGS, struct.pack(">HI", 4, 1) * 100),
                              (h2.WINDOW_UPDATE, struct.pack(">I", 1)), (99, b"unknown")):
            with h2.Connection(self.daemon.grpc) as connection:
                before = self.daemon.rss_mib()
                connection.socket.settimeout(5)
                try:
                    # Never reads: what is answered stays with the daemon.
                    for _ in range(300):
                        connection.socket.sendall(h2.frame(kind, 0, 0, payload) * 100)
                except OSError:
                    pass
                self.assert_grew_less(self.daemon.rss_mib() - before, 128, kind)

    def test_idle_streams(self):
        """Thousands of calls that wait: watches that see no change, and calls that never send their message."""
        connections = [self.connect() for _ in range(8)]
        before = self.daemon.rss_mib()
        for connection in connections:
            for _ in range(400):
                stream = connection.start(HEALTH + "Watch")
                connection.send(stream, h2.message(b""), end=True)
                connection.start(INFERENCE + "Complete")
        self.assertTrue(self.daemon.answers())
        self.assert_grew_less(self.daemon.rss_mib() - before, 400)

    def test_half_closed_and_abandoned(self):
        for _ in range(40):
            connection = h2.Connection(self.daemon.grpc)
            stream = connection.start(INFERENCE + "StreamComplete")
            connection.send(stream, h2.message(h2.complete_request("x", 100)), end=True)
            connection.start(INFERENCE + "Complete", end=True)  # ends without a message
            how = random.choice(["close", "shutdown", "reset"])
            if how == "shutdown":
                connection.socket.shutdown(socket.SHUT_WR)
                connection.socket.recv(1 << 16)
            if how == "reset":
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    def test_calls_without_a_message_end(self):
        connection = self.connect()
        for method in ("Complete", "StreamComplete", "Tokenize", "GetModel"):
            stream = connection.start(INFERENCE + method, end=True)
            self.assertEqual(connection.finish(stream)[0], "ended", method)

    def test_answers_that_nobody_reads(self):
        connection = self.connect()
        before = self.daemon.metric("spillway_unread_answers_total")
        streams = []
        for _ in range(6):
            stream = connection.start(INFERENCE + "Tokenize")
            framed = h2.message(h2.field(2, b"x" * 30000))
            while framed:
                sent = connection.send(stream, framed, end=True)
                framed = framed[sent:]
                if not sent:
                    connection.read()
            streams.append(stream)
        self.daemon.wait_for(lambda: self.daemon.metric("spillway_unread_answers_total") > before, "answers given up")

    def test_reflection_that_nobody_reads(self):
        connection = self.connect()
        before = self.daemon.metric("spillway_unread_answers_total")
        question = h2.message(h2.field(3, b"spillway/v1/inference.proto"))
        for _ in range(12):
            stream = connection.start("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            connection.send(stream, question)
        self.daemon.wait_for(lambda: self.daemon.metric("spillway_unread_answers_total") > before, "answers given up")

    def test_reflection_asked_at_length(self):
        _, answer = self.connect().call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                        h2.field(3, b"x" * 30000))
        self.assertLess(len(answer), 4096, "refused, not repeated")

    @staticmethod
    def throw(address, bytes_):
        """Sends bytes and reads until the other side has closed or says nothing for a moment."""
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            try:
                connection.sendall(bytes_)
                connection.settimeout(0.2)
                while connection.recv(1 << 16):
                    pass
            except OSError:
                pass

    def test_garbage_on_the_grpc_port(self):
        for bytes_ in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\0" * 5000,
                       os.urandom(5000), h2.PREFACE[:10], h2.PREFACE + os.urandom(5000),
                       h2.PREFACE + h2.frame(h2.DATA, 0, 0, b"x" * 16384) * 10,
                       h2.PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"):
            for _ in range(3):
                self.throw(self.daemon.grpc, bytes_)

    def test_garbage_and_slowness_on_the_metrics_port(self):
        host, port = self.daemon.metrics.rsplit(":", 1)
        for bytes_ in (b"\0" * 100, os.urandom(3000), b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/x" * 50000 + b" HTTP/1.1\r\n\r\n",
                       b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                       b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
                       b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\n\r\n", h2.PREFACE,
                       b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"):
            self.throw(self.daemon.metrics, bytes_)
        # More slow requests than the server has threads: a probe waits for their time to be over, and is answered.
        slow = [socket.create_connection((host, int(port)), timeout=5) for _ in range(80)]
        for connection in slow:
            self.addCleanup(connection.close)
            connection.sendall(b"GET /live")
        begin = time.monotonic()
        self.assertEqual(self.daemon.get("/livez")[0], 200)
        self.assertLess(time.monotonic() - begin, 15)

    def test_idle_connections(self):
        """More than may be open; when they are gone there is room again."""
        host, port = self.daemon.grpc.rsplit(":", 1)
        refused = 'spillway_connections_refused_total{reason="limit"}'
        before = self.daemon.metric(refused)
        idle = []
        for _ in range(300):
            idle.append(socket.create_connection((host, int(port)), timeout=5))
        self.daemon.wait_for(lambda: self.daemon.metric(refused) >= before + 230, "refusals")
        self.assertLessEqual(self.daemon.metric("spillway_connections"), 64)
        self.assertEqual(self.daemon.get("/livez")[0], 200)
        for connection in idle:
            connection.close()
        self.daemon.wait_for(self.daemon.answers, "room for a new connection")


class HalfSentMessagesTest(HostileTest):
    """Messages of 15 MiB of which all comes but the end, on many streams, as fast as the daemon reads. gRPC ends
    calls for the memory that they hold, whosever they are; the daemon lives, and takes new ones."""

    def test_memory_and_time_are_bounded(self):
        daemon = Daemon("--network_memory=128MiB", "--receive_timeout_ms=2000")
        try:
            before = daemon.rss_mib()
            self.assert_grew_less(self.attack(daemon) - before, 600)
            daemon.wait_for(lambda: daemon.metric("spillway_unfinished_messages_total") > 0, "calls given up")
            witness = Witness(daemon)
            daemon.wait_for(lambda: witness.fault or witness.streams > 3, "the witness")
            witness.stop()
            self.assertEqual(witness.fault, "")
        finally:
            code = daemon.stop()
        self.assertEqual(code, 0)

    def attack(self, daemon):
        """Returns the most memory that the daemon took."""
        size = 15 * MIB
        connections = [(h2.Connection(daemon.grpc), {}) for _ in range(4)]
        for connection, left in connections:
            self.addCleanup(connection.close)
            for _ in range(40):
                stream = connection.start(INFERENCE + "Complete")
                connection.send(stream, h2.message(b"", claimed=size))
                left[stream] = size - 100
        chunk = b"\0" * 16384
        highest = 0
        end = time.monotonic() + 5
        while time.monotonic() < end:
            moved = sum(self.push(connection, left, chunk) for connection, left in connections)
            highest = max(highest, daemon.rss_mib())
            if not moved:
                self.assertTrue(daemon.answers())
                time.sleep(0.1)
        return highest

    @staticmethod
    def push(connection, left, chunk):
        """Sends a frame of every message as far as the windows allow; returns how many bytes went."""
        moved = 0
        if connection.socket.fileno() < 0:
            return 0
        try:
            while connection.has_frame() or select.select([connection.socket], [], [], 0)[0]:
                got = connection.read()
                if got is None:
                    raise ConnectionError
                if got[0] in (h2.RST_STREAM, h2.HEADERS):
                    left.pop(got[2], None)
            for stream in left:
                sent = connection.send(stream, chunk[:left[stream]])
                left[stream] -= sent
                moved += sent
        except OSError:
            connection.close()
        return moved


class FewDescriptorsTest(unittest.TestCase):
    """With hardly any file descriptors: connections are bounded by what is left, and the listener lives."""

    def test_idle_connections_do_not_wedge_the_listener(self):
        daemon = Daemon("--max_connections=100000", open_files=200)
        try:
            self.assertIn("open files", daemon.log())
            witness = Witness(daemon)
            host, port = daemon.grpc.rsplit(":", 1)
            for _ in range(3):
                idle = [socket.create_connection((host, int(port)), timeout=5) for _ in range(400)]
                daemon.wait_for(
                    lambda: daemon.metric('spillway_connections_refused_total{reason="limit"}') > 100, "refusals")
                self.assertEqual(daemon.get("/livez")[0], 200)
                for connection in idle:
                    connection.close()
                daemon.wait_for(daemon.answers, "a new call")
            before = witness.streams
            daemon.wait_for(lambda: witness.fault or witness.streams > before, "the witness")
            witness.stop()
            self.assertEqual(witness.fault, "")
            self.assertIn("a connection was closed as it came", daemon.log())
        finally:
            code = daemon.stop()
        self.assertEqual(code, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillwayd", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--memory_factor", type=float, help="what a daemon with a sanitizer may take, of a usual one's memory")
    rest = parser.parse_known_args(namespace=OPTIONS)[1]
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
