"""HTTP/2 and gRPC by hand, with nothing but sockets: for frames that no library would send."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def varint(value):
    """Of protobuf."""
    out = b""
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def field(number, value):
    """A protobuf field: bytes length-delimited, numbers as varints."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def complete_request(text, max_tokens):
    """CompleteRequest{text, options{max_tokens, stop{ignore_eos}}}."""
    return field(2, text.encode()) + field(4, field(1, max_tokens) + field(4, field(3, 1)))


def _hpack_integer(value):
    if value < 127:
        return bytes([value])
    return bytes([127]) + varint(value - 127)


def header(name, value):
    """A literal header field, not indexed."""
    value = value if isinstance(value, bytes) else value.encode()
    return b"\0" + _hpack_integer(len(name)) + name.encode() + _hpack_integer(len(value)) + value


def request_headers(path, extra=()):
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"),
              ("content-type", "application/grpc"), ("te", "trailers"), *extra]
    return b"".join(header(name, value) for name, value in fields)


def message(payload, claimed=None, compressed=0):
    """gRPC's frame of a message, which may lie about its length."""
    return struct.pack(">BI", compressed, len(payload) if claimed is None else claimed) + payload


class Connection:
    """Keeps account of flow control; sends only what it is told to. Raises OSError when the server has closed."""

    def __init__(self, address, timeout=30, tls=None):
        """`tls`: an ssl.SSLContext."""
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # headers and data are written apart
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""
        self.next_stream = 1
        self.initial_window = 65535
        self.window = 65535  # of the connection, towards the server
        self.windows = {}
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.socket.close()

    def start(self, path, extra=(), end=False):
        stream = self.next_stream
        self.next_stream += 2
        self.windows[stream] = self.initial_window
        flags = END_HEADERS | (END_STREAM if end else 0)
        self.socket.sendall(frame(HEADERS, flags, stream, request_headers(path, extra)))
        return stream

    def send(self, stream, data, end=False):
        """One DATA frame of as much as the windows allow; returns how much that is."""
        size = max(0, min(len(data), self.window, self.windows[stream], 16384))
        if size == 0 and data:
            return 0
        self.socket.sendall(frame(DATA, END_STREAM if end and size == len(data) else 0, stream, data[:size]))
        self.window -= size
        self.windows[stream] -= size
        return size

    def has_frame(self):
        return len(self.buffer) >= 9 and len(self.buffer) >= 9 + int.from_bytes(self.buffer[:3], "big")

    def read(self):
        """The next frame as (kind, flags, stream, payload); None when the server has closed."""
        try:
            while not self.has_frame():
                more = self.socket.recv(1 << 16)
                if not more:
                    return None
                self.buffer += more
        except ConnectionError:
            return None
        size = int.from_bytes(self.buffer[:3], "big")
        kind, flags = self.buffer[3], self.buffer[4]
        stream = int.from_bytes(self.buffer[5:9], "big") & 0x7FFFFFFF
        payload, self.buffer = self.buffer[9:9 + size], self.buffer[9 + size:]
        self._account(kind, flags, stream, payload)
        return kind, flags, stream, payload

    def _answer(self, data):
        try:
            self.socket.sendall(data)
        except ConnectionError:
            pass  # the server has closed, as the next read says

    def _account(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            for begin in range(0, len(payload), 6):
                key, value = struct.unpack(">HI", payload[begin:begin + 6])
                if key == 4:  # INITIAL_WINDOW_SIZE
                    for other in self.windows:
                        self.windows[other] += value - self.initial_window
                    self.initial_window = value
            self._answer(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._answer(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            size = struct.unpack(">I", payload)[0]
            if stream == 0:
                self.window += size
            elif stream in self.windows:
                self.windows[stream] += size

    def call(self, path, payload, extra=(), widen=True):
        """A whole call: how it ended ("closed", "reset" or "ended") and the messages' bytes."""
        try:
            stream = self.start(path, extra)
            framed = message(payload)
            while framed:
                sent = self.send(stream, framed, end=True)
                framed = framed[sent:]
                if not sent and self.read() is None:
                    return "closed", b""
        except ConnectionError:
            return "closed", b""
        return self.finish(stream, widen)

    def finish(self, stream, widen=True):
        data = b""
        while True:
            got = self.read()
            if got is None:
                return "closed", data
            kind, flags, of, payload = got
            if of != stream:
                continue
            if kind == RST_STREAM:
                return "reset", data
            if kind == DATA:
                data += payload
                if widen and payload:
                    more = struct.pack(">I", len(payload))
                    self.socket.sendall(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, stream, more))
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                return "ended", data
