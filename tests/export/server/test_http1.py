"""What is taken for a request of HTTP, and what is refused before anything is done for it."""

from __future__ import annotations

import socket
import threading

import pytest

from export.server.http1 import Bounds, ClosedError, HttpError, Reader, Request
from export.server.rest import message

HOST = b"Host: x\r\n"
POST = b"POST /p HTTP/1.1\r\n" + HOST
GET = b"GET /g HTTP/1.1\r\n" + HOST
INNER = GET + b"\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BOUNDS = Bounds(body=1000, seconds=60.0, idle_seconds=60.0)


def read(data: bytes, bounds: Bounds = BOUNDS, *, close: bool = True) -> list[Request]:
    """The requests that a connection brings until its client closes it. Raises HttpError."""
    near, far = socket.socketpair()
    sender = threading.Thread(target=_send, args=(far, data, close))
    sender.start()
    reader, found = Reader(near, bounds), []
    try:
        while True:
            found.append(reader.read())
    except ClosedError:
        return found
    finally:
        near.close()
        sender.join()
        far.close()


def _send(far: socket.socket, data: bytes, close: bool) -> None:
    try:
        far.sendall(data)
        if close:
            far.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # refused before its end


def size(count: int | str) -> bytes:
    return f"Content-Length: {count}\r\n".encode()


REFUSED = {
    "GET with a body": (GET + size(len(INNER)) + b"\r\n" + INNER, 400),
    "GET in chunks": (GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + size(2) + size(2 + len(INNER)) + b"\r\n{}" + INNER, 400),
    "the same length twice": (POST + size(2) + size(2) + b"\r\n{}", 400),
    "two lengths in a field": (POST + size("2, 2") + b"\r\n{}", 400),
    "a length of digits of another script": (POST + size("٢") + b"\r\n{}", 400),
    "a signed length": (POST + size("+2") + b"\r\n{}", 400),
    "a negative length": (POST + size(-1) + b"\r\n", 400),
    "chunks beside a length": (
        POST + size(2) + b"Transfer-Encoding: chunked\r\n\r\n{}" + INNER,
        400,
    ),
    "an unknown coding beside a length": (
        POST + b"Transfer-Encoding: xchunked\r\n" + size(2) + b"\r\n{}" + INNER,
        400,
    ),
    "an unknown coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "chunks twice": (POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 501),
    "chunks by HTTP/1.0": (
        b"POST /p HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "a chunk of no size": (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk of 0x": (CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk that is longer": (CHUNKED + b"2\r\n{}}\r\n0\r\n\r\n", 400),
    "a chunk after LF": (CHUNKED + b"2\n{}\r\n0\r\n\r\n", 400),
    "chunks that are too large": (CHUNKED + b"3e9\r\n", 413),
    "no length": (POST + b"\r\n", 411),
    "too large": (POST + size(1001) + b"\r\n", 413),
    "a folded field": (GET + b"X: a\r\n Content-Length: 5\r\n\r\nhello", 400),
    "a space before the colon": (GET + b"Content-Length : 5\r\n\r\nhello", 400),
    "a field without a name": (GET + b": 5\r\n\r\n", 400),
    "a field with a control character": (GET + b"X: a\0b\r\n\r\n", 400),
    "a field with CR": (GET + b"X: a\rContent-Length: 5\r\n\r\nhello", 400),
    "LF alone": (b"GET /g HTTP/1.1\nHost: x\n\n", 400),
    "no host": (b"GET /g HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + HOST + b"\r\n", 400),
    "no version": (b"GET /g\r\n\r\n", 400),
    "two spaces": (b"GET  /g HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "HTTP/2": (b"GET /g HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "no HTTP": (b"\x16\x03\x01\x02\r\n", 400),
    "a long line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n", 414),
    "a long line without end": (b"a" * 70_000, 414),
    "a long field": (GET + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    "a long head": (GET + (b"X: " + b"a" * 8000 + b"\r\n") * 9 + b"\r\n", 431),
    "many fields": (GET + b"X: a\r\n" * 101 + b"\r\n", 431),
    "HEAD": (b"HEAD /g HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "PUT": (b"PUT /p HTTP/1.1\r\n" + HOST + size(2) + b"\r\n{}", 405),
    "another expectation": (POST + b"Expect: tea\r\n" + size(2) + b"\r\n{}", 417),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_is_refused(case):
    data, status = REFUSED[case]
    with pytest.raises(HttpError) as raised:
        read(data)
    assert raised.value.status == status
    assert raised.value.text.count("\n") == 0


@pytest.mark.parametrize("case", ["GET with a body", "two lengths", "LF alone", "PUT"])
def test_what_comes_before_a_refusal_is_answered(case):
    near, far = socket.socketpair()
    with near, far:
        far.sendall(INNER + REFUSED[case][0])
        reader = Reader(near, BOUNDS)
        assert reader.read().target == "/g"
        with pytest.raises(HttpError):
            reader.read()


def test_requests_follow_one_another():
    chunks = CHUNKED + b"2;a=b\r\n{}\r\n00B\r\n0123456789\n\r\n0\r\nX: trailer\r\n\r\n"
    last = b"GET /last HTTP/1.1\r\nConnection: keep-alive, Close\r\n" + HOST + b"\r\n"
    data = b"\r\n" + INNER + POST + size(3) + b"\r\nab\n" + chunks + last
    found = read(data)
    assert [(r.method, r.target, r.body, r.last) for r in found] == [
        ("GET", "/g", b"", False),
        ("POST", "/p", b"ab\n", False),
        ("POST", "/p", b"{}0123456789\n", False),
        ("GET", "/last", b"", True),
    ]
    assert read(b"GET /g HTTP/1.0\r\n\r\n") == [Request("GET", "/g", b"", True)]


def test_a_request_that_comes_byte_by_byte_is_the_same():
    data = POST + size(3) + b"\r\nabc" + CHUNKED + b"1\r\nx\r\n0\r\n\r\n"
    near, far = socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def send() -> None:
        for byte in data:
            far.send(bytes([byte]))
        far.close()

    sender = threading.Thread(target=send)
    sender.start()
    reader = Reader(near, BOUNDS)
    assert [reader.read().body for _ in range(2)] == [b"abc", b"x"]
    with pytest.raises(ClosedError):
        reader.read()
    sender.join()
    near.close()


@pytest.mark.parametrize("part", [b"P", POST, POST + size(9) + b"\r\n12", CHUNKED + b"2\r\n"])
def test_one_deadline_is_for_head_and_body(part):
    """The client sends a part and holds the connection."""
    with pytest.raises(HttpError, match=r"took over 0\.05 s") as raised:
        read(part, Bounds(1000, seconds=0.05, idle_seconds=60.0), close=False)
    assert raised.value.status == 408


def test_a_connection_without_a_request_is_closed():
    assert read(b"", Bounds(1000, seconds=60.0, idle_seconds=0.05), close=False) == []
    assert read(INNER[:10]) == []


def test_a_client_that_asks_first_is_told_to_go_on():
    near, far = socket.socketpair()
    with near, far:
        far.sendall(POST + b"Expect: 100-continue\r\n" + size(2) + b"\r\n")
        threading.Thread(target=lambda: far.recv(100) and far.send(b"{}")).start()
        assert Reader(near, BOUNDS).read().body == b"{}"


def test_an_answer_says_what_may_be_asked():
    head = message(405, b'{"error": ""}', last=True, head=True)
    assert head.endswith(b"\r\n\r\n")
    for line in (b"HTTP/1.1 405 Method Not Allowed", b"Allow: GET, POST", b"Connection: close"):
        assert line in head.split(b"\r\n")
    assert message(200, b"{}", last=False).endswith(b"Content-Length: 2\r\n\r\n{}")
