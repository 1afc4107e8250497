"""Requests of HTTP/1.1, read strictly, against request smuggling.

The rules are RFC 9112's, without the leniency that it permits: a message has one length, lines end
with CR LF, a field's name touches its colon, and only POST has a body. One deadline covers head and
the body of a request, so that a slow client cannot hold a thread for longer. After any error the
connection must be closed.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

METHODS = ("GET", "POST")
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/(\d)\.(\d)")
FIELD = re.compile(rb"(" + TOKEN + rb"):([\t -~\x80-\xff]*)")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*)?")
LENGTH = re.compile(rb"[0-9]{1,18}")
LONGEST_LINE = 8 << 10  # of a request, and of a field
LONGEST_HEAD = 64 << 10
MOST_FIELDS = 100
CHUNK_HEADS = 1 << 20  # bytes, over all chunks of a body
BLOCK = 1 << 16


class HttpError(Exception):
    """A request that is answered with ``status`` and one sentence, and the connection closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class ClosedError(Exception):
    """The client closed the connection."""


@dataclass(frozen=True)
class Bounds:
    """body: bytes. seconds: for head and body. idle_seconds: until a request begins."""

    body: int
    seconds: float = 60.0
    idle_seconds: float = 60.0


@dataclass(frozen=True)
class Request:
    """last: the client wants the connection closed after the answer."""

    method: str
    target: str
    body: bytes
    last: bool


class Reader:
    """Reads the requests of a connection, one after the other."""

    def __init__(self, connection: socket.socket, bounds: Bounds) -> None:
        self.connection, self.bounds = connection, bounds
        self.method = ""  # of the request that is being read
        self._held = bytearray()
        self._until = 0.0

    def read(self) -> Request:
        """The next request.

        Raises HttpError for one that is refused, and ClosedError where no request comes.
        """
        self.method = ""
        self._until = time.monotonic() + self.bounds.idle_seconds
        try:
            while not self._held:
                self._receive()
        except TimeoutError:
            raise ClosedError from None
        self._until = time.monotonic() + self.bounds.seconds
        try:
            return self._read()
        except TimeoutError:
            raise HttpError(
                408, f"the request took over {self.bounds.seconds:g} s to arrive; send it at once"
            ) from None

    def _read(self) -> Request:
        line = self._line(LONGEST_LINE, 414) or self._line(LONGEST_LINE, 414)
        found = LINE.fullmatch(line)
        if found is None:
            raise HttpError(400, "the request line is malformed; expected METHOD /path HTTP/1.1")
        self.method, target = found[1].decode(), found[2].decode()
        if found[3] != b"1":
            raise HttpError(505, "the version of HTTP is not spoken here; expected HTTP/1.1")
        old = found[4] == b"0"
        fields = self._fields()
        hosts = fields.get("host", [])
        if len(hosts) > 1 or not (hosts or old):
            raise HttpError(400, f"the request has {len(hosts)} Host fields; expected one")
        size = self._size(fields, old=old)
        tokens = b",".join(fields.get("connection", [])).lower().split(b",")
        last = old or b"close" in (t.strip() for t in tokens)
        if self.method not in METHODS:
            raise HttpError(405, f"{self.method[:20]} is not served; expected GET or POST")
        self._continue(fields, old=old)
        body = b"" if size == 0 else self._chunks() if size is None else self._take(size)
        return Request(self.method, target, body, last)

    def _fields(self) -> dict[str, list[bytes]]:
        """Values by the name in lower case."""
        found: dict[str, list[bytes]] = {}
        total = count = 0
        while line := self._line(LONGEST_LINE, 431):
            total, count = total + len(line), count + 1
            if total > LONGEST_HEAD or count > MOST_FIELDS:
                raise HttpError(
                    431,
                    f"the head has more than {MOST_FIELDS} fields or {LONGEST_HEAD:,} bytes; "
                    "expected fewer",
                )
            field = FIELD.fullmatch(line)
            if field is None:
                raise HttpError(400, "a header field is malformed; expected Name: value on a line")
            found.setdefault(field[1].decode().lower(), []).append(field[2].strip())
        return found

    def _size(self, fields: Mapping[str, list[bytes]], *, old: bool) -> int | None:
        """Bytes of the body; None where it comes in chunks."""
        lengths, codings = fields.get("content-length", []), fields.get("transfer-encoding", [])
        if codings and (lengths or old):
            beside = "HTTP/1.0" if old else "Content-Length"
            raise HttpError(
                400, f"Transfer-Encoding stands beside {beside}; expected Content-Length alone"
            )
        if len(lengths) > 1:
            raise HttpError(400, f"{len(lengths)} Content-Length fields are there; expected one")
        if lengths and not LENGTH.fullmatch(lengths[0]):
            raise HttpError(400, "Content-Length is no number; expected the body's bytes")
        size = int(lengths[0]) if lengths else 0
        if self.method != "POST":
            if codings or (size and self.method in METHODS):
                raise HttpError(400, f"{self.method[:20]} has a body; expected none")
            return 0
        if codings:
            if b",".join(codings).lower() != b"chunked":
                raise HttpError(501, "the Transfer-Encoding is not known here; expected chunked")
            return None
        if not lengths:
            raise HttpError(411, "the request has no Content-Length; expected its bytes")
        if size > self.bounds.body:
            raise self._too_large(f"{size:,}")
        return size

    def _continue(self, fields: Mapping[str, list[bytes]], *, old: bool) -> None:
        """Answers a client that asks before it sends its body."""
        expected = b",".join(fields.get("expect", [])).lower()
        if not expected or old:
            return
        if expected != b"100-continue":
            raise HttpError(417, "the expectation cannot be met; expected 100-continue")
        self.connection.settimeout(self._left())
        self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _chunks(self) -> bytes:
        body, heads = bytearray(), 0
        while True:
            line = self._line(LONGEST_LINE, 400)
            found = CHUNK.fullmatch(line)
            if found is None:
                raise HttpError(400, "a chunk's size is malformed; expected hexadecimal digits")
            size, heads = int(found[1], 16), heads + len(line) + 4
            if not size:
                self._fields()  # the trailer, which nobody reads
                return bytes(body)
            if len(body) + size > self.bounds.body:
                raise self._too_large(f"over {self.bounds.body:,}")
            if heads > CHUNK_HEADS:
                raise HttpError(400, "the body comes in too many chunks; expected larger ones")
            body += self._take(size)
            if self._take(2) != b"\r\n":
                raise HttpError(400, "a chunk is longer than its size; expected CR LF after it")

    def _too_large(self, size: str) -> HttpError:
        most = self.bounds.body
        return HttpError(413, f"the request has {size} bytes; expected at most {most:,}")

    def _line(self, longest: int, status: int) -> bytes:
        """Up to CR LF, without it. status: of a line that is too long."""
        while (end := self._held.find(b"\n", 0, longest + 2)) < 0:
            if len(self._held) > longest + 1:
                raise HttpError(status, f"a line has over {longest:,} bytes; expected fewer")
            self._receive()
        line = self._take(end + 1)
        if not line.endswith(b"\r\n"):
            raise HttpError(400, "a line ends with LF alone; expected CR LF")
        return line[:-2]

    def _take(self, size: int) -> bytes:
        while len(self._held) < size:
            self._receive()
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def _receive(self) -> None:
        self.connection.settimeout(self._left())
        data = self.connection.recv(BLOCK)
        if not data:
            raise ClosedError
        self._held += data

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
