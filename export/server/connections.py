"""The open connections of a server: at most so many in all and from one address. Where there are
too many, one that waits for its client is closed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass


@dataclass(eq=False)
class Connection:
    """since: when it began to wait for its client; None while an answer is computed."""

    socket: socket.socket
    address: str
    since: float | None


class Connections:
    """The open connections. Where there is no room for a new one, a connection that waits for its
    client is closed: the longest waiting one of the address that has most. No connection is closed
    while its answer is computed."""

    def __init__(self, most: int, of_one: int) -> None:
        """of_one: connections of one address."""
        self.most, self.of_one = most, of_one
        self._open: dict[socket.socket, Connection] = {}
        self._lock = threading.Lock()

    def admit(self, opened: socket.socket, address: str) -> bool:
        """Adds a connection; False where there is no room, as all others compute an answer."""
        with self._lock:
            counts = Counter(c.address for c in self._open.values())
            if counts[address] >= self.of_one:
                rivals = [c for c in self._open.values() if c.address == address]
            elif len(self._open) >= self.most:
                rivals = [*self._open.values()]
            else:
                self._open[opened] = Connection(opened, address, time.monotonic())
                return True
            waiting = [(counts[c.address], -c.since, c) for c in rivals if c.since is not None]
            if not waiting:
                return False
            victim = max(waiting, key=lambda found: found[:2])[2]
            del self._open[victim.socket]
            self._open[opened] = Connection(opened, address, time.monotonic())
        with contextlib.suppress(OSError):
            victim.socket.shutdown(socket.SHUT_RDWR)  # its thread reads the end
        return True

    def answering(self, opened: socket.socket) -> bool:
        """Marks that its request has arrived. False where the connection was closed for another."""
        return self._mark(opened, None)

    def waiting(self, opened: socket.socket) -> bool:
        """Marks that its answer is computed, and that it waits for its client again."""
        return self._mark(opened, time.monotonic())

    def _mark(self, opened: socket.socket, since: float | None) -> bool:
        with self._lock:
            found = self._open.get(opened)
            if found is not None:
                found.since = since
            return found is not None

    def release(self, opened: socket.socket) -> None:
        with self._lock:
            self._open.pop(opened, None)
