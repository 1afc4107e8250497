"""The time budget of a search: the plan that fits, and a clock that survives a kill."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from at4ctr.durable import write_json

TASK_COST = 1.5  # seconds of a run with one more task over those of the base: before it is measured
MOST_TRIALS = 12  # of a task: one weight needs no more
GOOD_TRIALS = 3  # of a task, before more tasks come into the last comparison
COMBINATIONS = 3  # at most so many sets of tasks are tried together
SAVE_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Plan:
    """trials: of each task. finalists: tasks that are compared over seeds. seeds: how many.
    base: seconds of the base run."""

    trials: int
    finalists: int
    seeds: int
    base: float

    @property
    def run(self) -> float:
        """Expected seconds of a run with a task."""
        return self.base * TASK_COST

    @property
    def final(self) -> float:
        """Expected seconds of the comparison over seeds, one run at a time."""
        return self.seeds * (self.base + (self.finalists + 1) * self.run)

    def total(self, tasks: int) -> float:
        """Expected seconds of all, without the base run, one run at a time."""
        sets = min(COMBINATIONS, tasks - 1) * self.run
        return tasks * self.trials * self.run + sets + self.final


def plan(seconds: float, base: float, tasks: int, seeds: int, parallel: int) -> Plan:
    """The best plan that fits in the seconds left.

    The first choice is all tasks in the comparison and `GOOD_TRIALS` trials. If that does not fit,
    there are fewer tasks, then fewer trials, then fewer seeds. The least plan is one trial, one
    finalist and two seeds, whether it fits or not. Time that is left goes to trials, up to
    `MOST_TRIALS`.
    """
    choices = [Plan(GOOD_TRIALS, f, seeds, base) for f in range(tasks, 0, -1)]
    choices += [Plan(n, 1, seeds, base) for n in range(GOOD_TRIALS - 1, 0, -1)]
    choices += [Plan(1, 1, s, base) for s in range(seeds - 1, 1, -1)]
    room = seconds * parallel
    found = next((p for p in choices if p.total(tasks) <= room), choices[-1])
    more = range(MOST_TRIALS, found.trials, -1)
    larger = (Plan(n, found.finalists, found.seeds, base) for n in more)
    return next((p for p in larger if p.total(tasks) <= room), found)


class Clock:
    """Seconds left of a budget, over all commands that worked on it."""

    def __init__(self, path: Path, minutes: float) -> None:
        """path: of a JSON file that survives a kill."""
        self._path, self._began, self._saved = path, time.monotonic(), 0.0
        kept = json.loads(path.read_text()) if path.exists() else {}
        self._before = float(kept.get("spent", 0.0))
        self.budget = 60 * minutes

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds; saves what was spent now and then."""
        if self.spent - self._saved > SAVE_EVERY:
            self.save()
        return self.budget - self.spent

    def save(self) -> None:
        self._saved = self.spent
        write_json(self._path, {"spent": self.spent})
