"""The open connections of a server: bounded in all and of one address, slow ones giving way."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass


@dataclass(eq=False)
class Connection:
    """since: it waits for its client; None while an answer is computed."""

    socket: socket.socket
    address: str
    since: float | None


class Connections:
    """Where there is no room, the new connection takes the place of one that waits for its client:
    of the address that has most, the one that waits longest. None is closed while its answer is
    computed."""

    def __init__(self, most: int, of_one: int) -> None:
        """of_one: connections of one address."""
        self.most, self.of_one = most, of_one
        self._open: dict[socket.socket, Connection] = {}
        self._lock = threading.Lock()

    def admit(self, opened: socket.socket, address: str) -> bool:
        """False where all others compute an answer."""
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
        """Its request is there. False where it had to give way."""
        return self._mark(opened, None)

    def waiting(self, opened: socket.socket) -> bool:
        """Its answer is computed."""
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
