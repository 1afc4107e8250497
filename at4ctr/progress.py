"""What a person sees while a model trains."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

LEAST_SECONDS, LEAST_SHARE = 10.0, 0.02  # of work that was seen, before the rest is estimated


class Progress:
    """One line: step, examples/s, time left, the share of time spent waiting for input, each loss.

    On a terminal it rewrites itself; elsewhere it is logged every ``every`` seconds. The first step
    opens the reader and traces the graph, so no speed and no time left is printed of it; the time
    left is printed once the steps after it have taken `LEAST_SECONDS` and are `LEAST_SHARE` of all
    that remained. clock: seconds.
    """

    def __init__(
        self,
        total: int,
        batch_size: int,
        start: int = 0,
        every: float = 15.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total, self.batch_size, self.every = total, batch_size, every
        self.terminal = sys.stderr.isatty()
        self.clock = clock
        self.began = self.shown = clock()
        self.start = start
        self.timed = 0  # steps since `began`, which the first step sets
        self.wait = 0.0
        self.sums: dict[str, float] = {}
        self.since = 0

    def update(self, step: int, losses: Mapping[str, float], wait: float) -> None:
        """After a step: its losses, and the seconds that it waited for input."""
        now = self.clock()
        self.since += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if step == self.start + 1:
            self.began = now
            if now - self.shown >= self.every or step == self.total:
                self._say(step, "")
            self.shown, self.sums, self.since = now, {}, 0
            return
        self.timed = step - self.start - 1
        self.wait += wait
        if now - self.shown >= (0.5 if self.terminal else self.every) or step == self.total:
            self.show(step, now)

    def show(self, step: int, now: float) -> None:
        """The line of a step after the first one."""
        elapsed = max(now - self.shown, 1e-9)
        speed = self.since * self.batch_size / elapsed
        left = self.left(step, now)
        rest = "" if left is None else f"{left:4.0f} s left  "
        self._say(step, f"{speed:,.0f} examples/s  {rest}input {self.wait / elapsed:3.0%}  ")
        self.shown, self.sums, self.since, self.wait = now, {}, 0, 0.0

    def left(self, step: int, now: float) -> float | None:
        """Seconds to the last step; None where too few steps were timed for an estimate."""
        seconds, remained = now - self.began, self.total - self.start - 1
        if seconds < LEAST_SECONDS or self.timed < LEAST_SHARE * remained:
            return None
        return (self.total - step) * seconds / self.timed

    def _say(self, step: int, how_fast: str) -> None:
        means = "  ".join(f"{k} {v / self.since:.4f}" for k, v in self.sums.items())
        line = f"step {step}/{self.total}  {how_fast}{means}"
        if self.terminal:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        else:
            log.info("%s", line)

    def close(self) -> None:
        if self.terminal:
            sys.stderr.write("\n")
