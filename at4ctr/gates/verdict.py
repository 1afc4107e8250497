"""What the model gate says: its thresholds, its checks row by row, and the verdict they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from at4ctr.errors import InputError

Decision = Literal["BLESS", "REJECT", "HOLD"]
Outcome = Literal["pass", "fail", "hold"]
NUMBERS = "candidate numbers"  # the check that no override passes


@dataclass(frozen=True)
class Thresholds:
    """What a candidate must reach; None: nobody has said, which holds the model.

    auc_loss: the lower 95 % bound of ΔAUC is at least minus this.
    entropy_rise: NE' / NE − 1 is at most this.
    pcoc, pcoc_noise: |PCOC − 1| ≤ pcoc + pcoc_noise / √clicks.
    segment_pcoc: no large segment's PCOC is surely further from 1 than this.
    segment_share: a segment is large from this share of all clicks, or of all predicted ones, on.
    clicks, users: fewer tell nothing; users are those with a click, or, where these are fewer,
        those with a row without one.
    replicates, seed: of the bootstrap.
    labels: which labels are judged, of those that the model serves, composed ones among them; () is
        all. Thresholds are the same for each. Leave out a label with too few positives a night.
    """

    auc_loss: float | None = 0.001
    entropy_rise: float | None = 0.001
    pcoc: float | None = 0.02
    pcoc_noise: float | None = 2.0
    segment_pcoc: float | None = 0.05
    segment_share: float | None = 0.05
    clicks: int | None = 400
    users: int | None = 100
    replicates: int = 1000
    seed: int = 0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.replicates < 1000:
            raise InputError(
                f"model gate: replicates is {self.replicates}; expected at least 1000, as the "
                "bound is the 5 % quantile; set replicates=1000"
            )
        for name, value in asdict(self).items():
            if name == "labels" or value is None:
                continue
            if not (np.isfinite(value) and value >= 0):
                raise InputError(
                    f"model gate: threshold {name} is {value}; expected a number of at least 0, "
                    "or none to hold every model"
                )


@dataclass(frozen=True)
class Check:
    """One row of the verdict. value, bound, interval (95 %): None where there is no such number."""

    name: str
    outcome: Outcome
    sentence: str
    value: float | None = None
    bound: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Verdict:
    """What the gate says, and why. reason: of the operator who blessed it in spite of ``was``."""

    decision: Decision
    checks: tuple[Check, ...]
    rows: int
    clicks: int
    users: int
    thresholds: Thresholds = field(default_factory=Thresholds)
    reason: str = ""
    was: Decision | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``gate.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_json`, also of what JSON made of it.

        Raises InputError where ``gate.json`` is not that of a verdict.
        """
        try:
            checks = tuple(
                Check(**{**c, "interval": None if c["interval"] is None else tuple(c["interval"])})
                for c in value["checks"]
            )
            given = value["thresholds"]
            thresholds = Thresholds(**{**given, "labels": tuple(given["labels"])})
            return cls(**{**value, "checks": checks, "thresholds": thresholds})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"gate.json is not the record of a verdict ({error}); expected what this version "
                "writes; run the night's gate again"
            ) from error


def decide(checks: Iterable[Check]) -> Decision:
    """HOLD if any check holds, else REJECT if any fails, else BLESS; HOLD where there is none."""
    outcomes = {c.outcome for c in checks}
    if "hold" in outcomes or not outcomes:
        return "HOLD"
    return "REJECT" if "fail" in outcomes else "BLESS"


def together(verdicts: Mapping[str, Verdict]) -> Verdict:
    """One verdict of several labels: the first one's rows, clicks and users, the checks of all.

    The names and sentences of other labels' checks begin with the label.
    """
    (_, first), *others = verdicts.items()
    checks = list(first.checks)
    for label, verdict in others:
        checks += [replace(c, name=f"{label} {c.name}", sentence=f"{label}: {c.sentence}")
                   for c in verdict.checks]  # fmt: skip
    return replace(first, decision=decide(checks), checks=tuple(checks))


def override(verdict: Verdict, reason: str) -> Verdict:
    """The verdict as blessed by an operator: the checks stay, the reason stands beside them.

    Raises InputError for an empty reason, and for a candidate with values that are no
    probabilities: no reason makes those worth serving.
    """
    if not reason.strip():
        raise InputError(
            "the model was to be blessed without a reason; expected one for the ledger; write "
            '--bless --reason "why this model is right in spite of the gate"'
        )
    for check in verdict.checks:
        if check.name.endswith(NUMBERS) and check.outcome != "pass":
            raise InputError(
                f"the model cannot be blessed: {check.sentence}; expected probabilities; train "
                "again"
            )
    if verdict.decision == "BLESS":
        return verdict
    return replace(verdict, decision="BLESS", reason=reason.strip(), was=verdict.decision)
