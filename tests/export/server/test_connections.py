"""Which connection gives way where there is no room for another."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from export.server import rest
from export.server.connections import Connections
from export.server.metrics import Metrics
from export.server.rpc import Model
from export.server.tensors import Limits
from export.server.versions import State, Status, Versions
from tests.export.serving import PATIENCE

GET = b"GET /v1/models/ctr HTTP/1.1\r\nHost: x\r\n\r\n"


class Fake:
    """A socket that is only told apart."""

    closed = False

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self.closed = True


def admitted(table: Connections, addresses: str) -> tuple[list[Any], list[bool]]:
    sockets: list[Any] = [Fake() for _ in addresses]
    return sockets, [table.admit(s, a) for s, a in zip(sockets, addresses, strict=True)]


def test_the_one_that_waits_longest_gives_way():
    table = Connections(most=3, of_one=3)
    sockets, let = admitted(table, "abcd")
    assert let == [True] * 4
    assert [s.closed for s in sockets] == [True, False, False, False]
    assert not table.answering(sockets[0])


def test_of_the_address_that_has_most():
    sockets, let = admitted(Connections(most=4, of_one=9), "abbbcc")
    assert let == [True] * 6
    # c takes the place of the oldest b, and then, as a, b and c have one to two, of the next b.
    assert [s.closed for s in sockets] == [False, True, True, False, False, False]


def test_an_address_at_its_bound_closes_its_own():
    sockets, let = admitted(Connections(most=9, of_one=2), "abbbb")
    assert let == [True] * 5
    assert [s.closed for s in sockets] == [False, True, True, False, False]


def test_no_answer_that_is_computed_is_cut():
    table = Connections(most=2, of_one=2)
    sockets, _ = admitted(table, "aa")
    assert all(table.answering(s) for s in sockets)
    late: Any = Fake()
    assert not table.admit(late, "a")
    assert not any(s.closed for s in sockets)
    assert table.waiting(sockets[1])
    assert table.admit(late, "a")
    assert [s.closed for s in sockets] == [False, True]
    table.release(sockets[0])
    assert table.admit(socket.socket(), "a")
    assert not late.closed


@contextmanager
def serving(**traffic: Any) -> Iterator[rest.Server]:
    """A REST server that answers the status of one version."""
    load: Any = None
    versions = Versions("ctr", Path("nowhere"), load, lambda _: None)
    versions._statuses[1] = Status(State.AVAILABLE)
    model = Model(versions, Limits(), Metrics())
    made = rest.serve(model, "127.0.0.1", 0, rest.Traffic(**traffic))
    try:
        yield made
    finally:
        made.stop(0.0)


def connect(server: rest.Server, data: bytes) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE)
    opened.sendall(data)
    return opened


def answers(opened: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    found = b""
    with opened:
        while data := opened.recv(1 << 16):
            found += data
    return found


def asked(server: rest.Server) -> bytes:
    return answers(connect(server, GET.replace(b"Host", b"Connection: close\r\nHost")))


def test_slow_connections_take_no_server_down():
    """Three times as many as there is room for, each with a part of a request."""
    with serving(connections=8, of_one=8) as server:
        slow = [connect(server, GET[:-2]) for _ in range(24)]
        for _ in range(5):
            assert asked(server).startswith(b"HTTP/1.1 200 OK")
        assert len(server.connections._open) <= 8
        for opened in slow:
            opened.close()
        assert asked(server).startswith(b"HTTP/1.1 200 OK")


def test_a_slow_client_is_answered_408_and_closed():
    with serving(request_seconds=0.05) as server:
        found = answers(connect(server, GET[:-2]))
    assert found.startswith(b"HTTP/1.1 408 Request Timeout")
    assert "took over" in json.loads(found.split(b"\r\n\r\n")[1])["error"]


def test_where_all_compute_an_answer_another_is_refused_in_words():
    with serving(connections=1, of_one=1) as server:
        first = connect(server, GET)
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        (held,) = server.connections._open
        assert server.connections.answering(held)
        found = answers(connect(server, b""))
        assert found.startswith(b"HTTP/1.1 503 Service Unavailable")
        assert "no connection free" in json.loads(found.split(b"\r\n\r\n")[1])["error"]
        assert server.connections.waiting(held)
        assert asked(server).startswith(b"HTTP/1.1 200 OK")
        assert answers(first) == b""


@pytest.mark.parametrize(
    "second",
    [
        b"GET /v1/models/ctr HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GET),
        b"POST /v1/models/ctr:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
        b"Content-Length: %d\r\n\r\n" % len(GET),
        b"POST /v1/models/ctr:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n"
        b"Content-Length: 0\r\n\r\n",
    ],
)
def test_a_body_never_becomes_a_second_request(second):
    with serving() as server:
        found = answers(connect(server, GET + second + GET))
    statuses = [line for line in found.split(b"\r\n") if b"HTTP/1.1 " in line]
    assert statuses[0] == b"HTTP/1.1 200 OK"
    assert statuses[1].endswith(b"HTTP/1.1 400 Bad Request")
    assert len(statuses) == 2


def test_what_is_under_way_is_answered_before_the_server_stops():
    with serving() as server:
        entered = server.answering()
        entered.__enter__()
        began = time.monotonic()
        server.stop(0.05)  # given up after the grace
        assert time.monotonic() - began >= 0.05
        entered.__exit__(None, None, None)
