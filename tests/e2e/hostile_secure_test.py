#!/usr/bin/env python3
"""Does to a daemon with mutual TLS and tokens what no honest client does. It must live, and serve others meanwhile.

Usage: hostile_secure_test.py --spillwayd=PATH --model=FILE.gguf --certificates=PROGRAM [--memory_factor=N]
           [unittest's own arguments]
Needs nothing but Python; PROGRAM is write-test-certificates.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import hostile_client_test as hostile
import http2_by_hand as h2

CERTIFICATES = ""
TOKENS = {"good": "user", "operator": "admin"}


def tls_context(folder, name):
    """A client's that trusts the authority and shows `name`'s certificate, none where it is empty."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.set_alpn_protocols(["h2"])
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


class SecureTest(hostile.HostileTest):

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        subprocess.run([CERTIFICATES, cls.folder], check=True)
        for suffix in ("pem", "key"):
            shutil.copy(cls.folder / f"server.{suffix}", cls.folder / f"live.{suffix}")
        cls.tokens = cls.folder / "tokens.json"
        cls.tokens.write_text(json.dumps({
            "schema_version": 1,
            "tokens": [{"sha256": hashlib.sha256(token.encode()).hexdigest(), "tenant": token, "role": role}
                       for token, role in TOKENS.items()]}))
        cls.daemon = hostile.Daemon(
            f"--tls_certificate={cls.folder}/live.pem", f"--tls_key={cls.folder}/live.key",
            f"--tls_client_ca={cls.folder}/ca.pem", f"--tokens_file={cls.tokens}", "--receive_timeout_ms=3000",
            "--slow_reader_timeout_ms=8000", "--max_connections=64", "--network_memory=128MiB",
            tls=tls_context(cls.folder, "client"), metadata=[("authorization", "Bearer good")])

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        cls.temporary.cleanup()
        assert code == 0, f"spillwayd ended with {code}"

    def setUp(self):
        self.daemon.wait_for(self.daemon.answers, "an answer before the test")
        self.witness = hostile.Witness(self.daemon)

    def tearDown(self):
        before = self.witness.streams
        self.daemon.wait_for(lambda: self.witness.fault or self.witness.streams > before, "the witness")
        self.witness.stop()
        self.assertEqual(self.witness.fault, "", self.daemon.log()[-3000:])
        self.daemon.wait_for(self.daemon.answers, "an answer after the test")
        self.assertEqual(self.daemon.get("/livez")[0], 200)

    def raw(self):
        host, port = self.daemon.grpc.rsplit(":", 1)
        connection = socket.create_connection((host, int(port)), timeout=10)
        self.addCleanup(connection.close)
        return connection

    def connect(self):
        connection = self.daemon.connect()
        self.addCleanup(connection.close)
        return connection

    def is_let_in(self, context):
        """A connection that presents itself so gets a health check through."""
        try:
            with h2.Connection(self.daemon.grpc, 10, context) as connection:
                return connection.call(hostile.HEALTH + "Check", b"")[0] == "ended"
        except (OSError, ssl.SSLError):
            return False

    def test_plain_text_and_garbage(self):
        before = self.daemon.metric("spillway_tls_handshakes_failed_total")
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        for bytes_ in (h2.PREFACE + h2.frame(h2.SETTINGS, 0, 0), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(5000),
                       b"\0" * 5000, hello + os.urandom(500), hello + b"\xff" * 70000, b"\x16\x03\x03\xff\xff" + b"\x01" * 66000,
                       b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + b"\x01" * 40):
            for _ in range(5):
                hostile.HostileClientTest.throw(self.daemon.grpc, bytes_)
        self.assertGreater(self.daemon.metric("spillway_tls_handshakes_failed_total"), before)
        with self.assertRaises(OSError):
            with h2.Connection(self.daemon.grpc, 10) as connection:
                if connection.call(hostile.HEALTH + "Check", b"")[0] != "ended":
                    raise ConnectionError("closed")

    def test_certificates_that_are_not_good(self):
        self.assertTrue(self.is_let_in(tls_context(self.folder, "client")))
        before = self.daemon.metric("spillway_tls_handshakes_failed_total")
        for name in ("", "expired", "early", "strange"):
            for _ in range(5):
                self.assertFalse(self.is_let_in(tls_context(self.folder, name)), name)
        self.assertGreaterEqual(self.daemon.metric("spillway_tls_handshakes_failed_total") - before, 20)

    def test_old_protocols_are_refused(self):
        context = tls_context(self.folder, "client")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        self.assertFalse(self.is_let_in(context))
        context = tls_context(self.folder, "client")
        context.set_alpn_protocols(["http/1.1"])
        self.assertFalse(self.is_let_in(context))

    def test_handshakes_that_stop_halfway(self):
        """Each holds one of the connections, and none for longer than a handshake may take."""
        before = self.daemon.rss_mib()
        hello = ssl.MemoryBIO()
        unanswered = tls_context(self.folder, "client").wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
        try:
            unanswered.do_handshake()
        except ssl.SSLWantReadError:
            pass
        hello = hello.read()
        connections = [self.raw() for _ in range(40)]
        for connection in connections:
            connection.sendall(hello[:len(hello) // 2])
        self.assertTrue(self.daemon.answers())
        for _ in range(400):
            with contextlib.suppress(OSError), self.raw() as connection:
                connection.sendall(hello)
        self.daemon.wait_for(self.daemon.answers, "an answer beside unfinished handshakes")
        begin = time.monotonic()
        for connection in connections:
            connection.settimeout(40)
            try:
                while connection.recv(1 << 16):
                    pass
            except OSError:
                pass
        self.assertLess(time.monotonic() - begin, 35)
        self.assert_grew_less(self.daemon.rss_mib() - before, 100)

    def test_wrong_tokens(self):
        rejected = 'spillway_requests_rejected_total{reason="UNAUTHENTICATED"}'
        before = self.daemon.metric(rejected)
        lines = self.daemon.log().count("request refused")
        begin = time.monotonic()
        memory = self.daemon.rss_mib()
        connection = self.connect()
        calls = 0
        for authorization in ([], [("authorization", "Bearer goo")], [("authorization", "Bearer good\0")],
                              [("authorization", "Basic Z29vZDo=")], [("authorization", "Bearer " + "x" * 4000)],
                              [("authorization", "Bearer good"), ("authorization", "Bearer good")],
                              [("authorization", b"Bearer \xff\xfe")]):
            for _ in range(300):
                how, data = connection.call(hostile.INFERENCE + "Complete", h2.complete_request("x", 100), authorization)
                self.assertEqual(data, b"")
                if how == "closed":
                    connection = self.connect()
                calls += how == "ended"
        self.assertGreater(calls, 1000)
        self.daemon.wait_for(lambda: self.daemon.metric(rejected) >= before + 1000, "refusals")
        self.assert_grew_less(self.daemon.rss_mib() - memory, 64)
        lines = self.daemon.log().count("request refused") - lines
        self.assertLess(lines, 20 * (time.monotonic() - begin + 2), "a flood does not flood the log")

    def test_an_unknown_caller_sends_a_large_message(self):
        """What is sent without a token is not kept."""
        memory = self.daemon.rss_mib()
        for _ in range(8):
            with self.daemon.connect() as connection:
                stream = connection.start(hostile.INFERENCE + "Complete")
                framed = h2.message(b"x" * (15 << 20))
                try:
                    while framed:
                        sent = connection.send(stream, framed)
                        framed = framed[sent:]
                        if not sent and (connection.read() or (h2.RST_STREAM,))[0] == h2.RST_STREAM:
                            break
                except OSError:
                    pass
        self.assert_grew_less(self.daemon.rss_mib() - memory, 100)

    def test_rapid_resets_without_a_token(self):
        connection = self.connect()
        for _ in range(5000):
            stream = connection.next_stream
            connection.next_stream += 2
            try:
                connection.socket.sendall(
                    h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.request_headers(hostile.INFERENCE + "StreamComplete")) +
                    h2.frame(h2.RST_STREAM, 0, stream, struct.pack(">I", 8)))
            except OSError:
                break

    def test_headers_that_do_not_end(self):
        for _ in range(30):
            connection = self.connect()
            block = h2.request_headers(hostile.INFERENCE + "Complete")
            connection.socket.sendall(h2.frame(h2.HEADERS, 0, 1, block[:10]))
        self.assertTrue(self.daemon.answers())

    def test_calls_of_an_operator_want_the_role(self):
        connection = self.connect()
        status = "/spillway.v1.AdminService/GetStatus"
        self.assertEqual(connection.call(status, b"", [("authorization", "Bearer good")])[1], b"")
        self.assertNotEqual(connection.call(status, b"", [("authorization", "Bearer operator")])[1], b"")

    def test_files_are_replaced_beside_all_this(self):
        taken = 'spillway_reloads_total{files="tls",result="taken"}'
        before = self.daemon.metric(taken)
        for name in ("renewed", "server"):
            for suffix in ("pem", "key"):
                shutil.copy(self.folder / f"{name}.{suffix}", self.folder / f"live.{suffix}")
            before += 1
            self.daemon.wait_for(lambda: self.daemon.metric(taken) == before, "the new pair")
            self.assertTrue(self.daemon.answers())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--spillwayd", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--certificates", required=True)
    parser.add_argument("--memory_factor", type=float, default=1.0)
    options, rest = parser.parse_known_args()
    CERTIFICATES = options.certificates
    hostile.OPTIONS = options
    unittest.main(argv=[sys.argv[0], *rest])
