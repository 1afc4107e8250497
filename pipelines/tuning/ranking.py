"""The page of a search over auxiliary tasks: a ranked table, and the recipe to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from at4ctr.analysis.tables import (
    NONE,
    Difference,
    Row,
    count,
    difference,
    markdown,
    spread,
)
from at4ctr.metrics.intervals import holm

NOTE = (
    "Trials choose the weights by validation on seed 0. The table is of other seeds, and its order "
    "is that of the validation differences, which are paired by seed (Student's t). p (Holm) is "
    "adjusted for all rows. Test is read by these last runs alone and chooses nothing. Time is "
    "that of the training steps over the base's."
)


@dataclass(frozen=True)
class Entry:
    """A set of tasks. recipe: its name in CONFIG. overrides: of the tasks' weights. seed0: the best
    watched value on seed 0 (None where no trial finished), and trials: how many ended."""

    label: str
    recipe: str
    overrides: tuple[str, ...] = ()
    seed0: float | None = None
    trials: int = 1


@dataclass(frozen=True)
class Ranking:
    """Entries with the runs of their seeds.

    metric: path of the watched metric in a run's metrics of test; that of validation lies below
    ``validation``. sign: 1 where higher is better, -1 where lower is.
    """

    base: Entry
    entries: Sequence[Entry]
    runs: Mapping[str, Row]
    metric: str
    sign: int
    seeds: int

    def gain(self, entry: Entry, metric: str | None = None) -> Difference | None:
        """How much better than the base; of validation unless a metric is named."""
        row, base = self.runs.get(entry.label), self.runs.get(self.base.label)
        if row is None or base is None:
            return None
        d = difference(row, base, metric or f"validation.{self.metric}")
        return d if d is None else d._replace(mean=self.sign * d.mean)

    @property
    def ranked(self) -> list[Entry]:
        """By mean gain over seeds, best first; after them those without, by seed 0."""

        def key(entry: Entry) -> tuple[bool, float]:
            gain = self.gain(entry)
            if gain is not None:
                return True, gain.mean
            return False, -float("inf") if entry.seed0 is None else self.sign * entry.seed0

        return sorted(self.entries, key=key, reverse=True)

    @property
    def winner(self) -> Entry | None:
        """The entry of the highest mean gain among those with a gain above 0 whose p is below 0.05
        after Holm's correction for all entries."""
        adjusted = self.adjusted()
        for entry in self.ranked:
            gain = self.gain(entry)
            if gain is not None and gain.mean > 0 and adjusted.get(entry.label, 1.0) < 0.05:
                return entry
        return None

    def adjusted(self) -> dict[str, float]:
        """Label of an entry -> its p after Holm's correction, of those that have one."""
        gains = {e.label: self.gain(e) for e in self.entries}
        tested = {k: d.p for k, d in gains.items() if d is not None and d.p is not None}
        return dict(zip(tested, holm(list(tested.values())), strict=True))

    def never_better(self) -> list[Entry]:
        """Entries that were on no seed better than the base on the same seed."""
        base, found = self.runs.get(self.base.label), []
        for entry in self.entries:
            pairs = [(entry.seed0, self.base.seed0)]
            if base is not None and entry.label in self.runs:
                metric = f"validation.{self.metric}"
                ours, theirs = self.runs[entry.label].values(metric), base.values(metric)
                pairs += [(ours[s], theirs[s]) for s in ours.keys() & theirs.keys()]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known and not any(self.sign * (a - b) > 0 for a, b in known):
                found.append(entry)
        return found

    def table(self, watch: str) -> list[str]:
        """The ranked table as Markdown, the base at its end."""
        gains = {e.label: self.gain(e) for e in self.entries}
        adjusted, lines = self.adjusted(), []
        for number, entry in enumerate([*self.ranked, self.base], start=1):
            last, gain = entry is self.base, gains.get(entry.label)
            row = self.runs.get(entry.label, Row(entry.label))
            runs = count(len(row.runs), self.seeds)
            setting = ", ".join(o.removeprefix("auxiliaries.") for o in entry.overrides)
            test = self.gain(entry, self.metric)
            lines.append([
                NONE if last else str(number), entry.label, f"`{setting}`" if setting else NONE,
                NONE if entry.seed0 is None else f"{entry.seed0:.4f}", str(entry.trials),
                spread(row.values(f"validation.{self.metric}").values()),
                NONE if last else _interval(gain),
                f"{adjusted[entry.label]:.2g}" if entry.label in adjusted else NONE,
                spread(row.values(self.metric).values()),
                NONE if last else _interval(test), self._time(row), runs,
            ])  # fmt: skip
        header = ["rank", "tasks", "weight", "seed 0", "trials", f"validation {watch}"]
        header += [
            "gain [95 %]",
            "p (Holm)",
            f"test {watch}",
            "gain on test [95 %]",
            "time",
            "runs",
        ]
        return markdown(header, lines)

    def _time(self, row: Row) -> str:
        base = self.runs.get(self.base.label, Row(""))
        ours, theirs = row.values("train_seconds"), base.values("train_seconds")
        seeds = ours.keys() & theirs.keys()
        total = sum(theirs[s] for s in seeds)
        return f"× {sum(ours[s] for s in seeds) / total:.2f}" if total else NONE


def _interval(d: Difference | None) -> str:
    if d is None:
        return NONE
    if d.half is None:
        return f"{d.mean:+.4f}"
    return f"{d.mean:+.4f} [{d.mean - d.half:+.4f}, {d.mean + d.half:+.4f}]"


def answer(ranking: Ranking) -> str:
    """Which tasks help, as a sentence or two."""
    winner, ranked = ranking.winner, ranking.ranked
    best = next((e for e in ranked if ranking.gain(e) is not None), None)
    if winner is not None:
        return (
            f"**{winner.label}** helps: it has the highest mean gain among the rows whose p is "
            "below 0.05 after the correction for all rows (Holm)."
        )
    said = "No row's gain is shown after the correction (Holm), so the base is the recipe to use."
    if best is not None and (gain := ranking.gain(best)) is not None and gain.mean > 0:
        said += f" {best.label} has the highest mean gain; more SEEDS would tell."
    return said
